"""The file of an edit: how it is written, and how it is read back, whoever wrote it.

`edit.schema.json` says the same to other programs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import EditError, shown
from ..records import Neuron

FORMAT, VERSION = "cotscope-edit", 1
_KEYS = ("format", "version", "name", "base", "scope", "weights", "factors", "offsets", "chosen", "measured")


def written(about: Mapping[str, Any], factors: Sequence[Sequence[float]], offsets: Sequence[Sequence[float]]) -> str:
    """A file's text: JSON of what is said about an edit, then rows of [layer, neuron, numbers]."""
    content = {"format": FORMAT, "version": VERSION, **about}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # half a character, as a path can have
    lists = (f' "{name}": [{_lines(rows)}]' for name, rows in (("factors", factors), ("offsets", offsets)))
    return text.removesuffix("\n}") + ",\n" + ",\n".join(lists) + "\n}\n"


def _lines(rows: Sequence[Sequence[float]]) -> str:
    """Rows of numbers, eight on a line."""
    texts = [json.dumps(row) for row in rows]
    return ",\n  ".join(", ".join(texts[i : i + 8]) for i in range(0, len(texts), 8))


def parsed(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a file holds, as the arguments of `Edit`; `base` as those of `Base`.

    Raises: EditError if it is no edit, or has unknown keys or values of another kind; `where` says of which file.
    """

    def wrong(what: str, expected: str, got: object) -> EditError:
        return EditError(f"{where}: {what}", expected=expected, got=shown(got))

    if content.get("format") != FORMAT:
        raise wrong("this is no edit", f'"format": "{FORMAT}"', content.get("format"))
    if content.get("version") != VERSION or isinstance(content.get("version"), bool):
        raise wrong("an edit of another version", f"version {VERSION}", content.get("version"))
    if unknown := sorted(set(content) - {*_KEYS}):
        raise wrong("unknown key", f"only {', '.join(_KEYS)}", unknown[0])
    base = content.get("base")
    kinds = {"model": str, "weights": str, "layers": int, "neurons_per_layer": int}
    if not isinstance(base, dict) or set(base) != set(kinds) or not all(_is(base[k], kind) for k, kind in kinds.items()):
        raise wrong("the base can't be read", f"an object with {', '.join(kinds)}", base)
    if min(base["layers"], base["neurons_per_layer"]) < 1:
        raise wrong("the base can't be read", "at least one layer and one neuron", base)
    if not isinstance(name := content.get("name"), str):
        raise wrong("the name can't be read", "a text", name)
    if not isinstance(weights := content.get("weights", ""), str):
        raise wrong("the weights can't be read", "their SHA-256", weights)
    chosen, measured = content.get("chosen", {}), content.get("measured", [])
    if not isinstance(chosen, dict):
        raise wrong("chosen can't be read", "an object", chosen)
    if not isinstance(measured, list) or not all(isinstance(m, dict) for m in measured):
        raise wrong("measured can't be read", "a list of objects", measured)
    if not _can_be_written([chosen, measured]):
        raise wrong("chosen or measured can't be read", "finite numbers, in few levels", [chosen, measured])
    for key, kind in (("questions", "fingerprints"), ("templates", "texts")):
        if not isinstance(seen := chosen.get(key, []), list) or not all(isinstance(q, str) for q in seen):
            raise wrong(f"the {key} that it was chosen with can't be read", f"a list of {kind}", seen)
    found: dict[str, dict[Neuron, list[float]]] = {"factors": {}, "offsets": {}}
    for key, lengths in (("factors", (3, 4)), ("offsets", (3,))):
        rows = content.get(key, [])
        if not isinstance(rows, list):
            raise wrong(f"{key} can't be read", "a list", rows)
        for row in rows:
            whole = isinstance(row, list) and len(row) in lengths and all(_is(v, int) for v in row[:2])
            if not whole or not all(_is(v, int) or _is(v, float) for v in row[2:]):
                last = "factor, or its factors of positive and of negative coefficients" if key == "factors" else "offset"
                raise wrong(f"one of the {key} can't be read", f"[layer, neuron, its {last}]", row)
            neuron = Neuron(row[0], row[1])
            if neuron in found[key]:
                raise wrong(f"one of the {key} is there twice", "one of each neuron", row)
            try:
                found[key][neuron] = [float(v) for v in row[2:]]
            except OverflowError as error:
                raise wrong(f"one of the {key} is too large", "a finite number", row) from error
    return {
        "name": name,
        "base": base,
        "factors": {n: (values[0], values[-1]) for n, values in found["factors"].items()},
        "offsets": {n: values[0] for n, values in found["offsets"].items()},
        "scope": content.get("scope", "all"),
        "chosen": chosen,
        "measured": tuple(measured),
        "weights": weights,
    }


def _can_be_written(value: object, levels: int = 20) -> bool:
    """Whether `written` can write a value that was read: NaN is no JSON, and deep lists are more than it can hold."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_can_be_written(part, levels - 1) for part in parts)
    return not isinstance(value, float) or math.isfinite(value)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
