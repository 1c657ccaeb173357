"""The model card of an exported model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..lm.models import MODELS
from ..runs.files import write_text
from .edit import Edit
from .made import search

_LONGEST_HEAD = 2**16  # characters of a card that are looked at
_SHOWN = 5  # layers or values that are named
_MEASURED, _LICENCE = "## What was measured", "## Licence"


def model_card(edit: Edit, source: str, folder: Path, dtype: str) -> str:
    """README.md of a folder with an exported model: base, edit, what was measured, licence."""
    licence = licence_of(source, folder)
    head = ["---", *(f"{key}: {value}" for key, value in licence.items())]
    known = re.fullmatch(r"[\w.-]+/[\w.-]+", source, re.ASCII) and not Path(source).exists()
    head += [f"base_model: {source}"] if known else []
    head += ["library_name: transformers", "tags:", "- cotscope", "---", ""]
    neurons = f"{edit.base.layers * edit.base.neurons_per_layer:,} feed-forward neurons"
    body = [
        f"# {_plain(edit.name)}",
        "",
        f"{_plain(source)} with {_changed(edit, neurons)} by cotscope (after [Rai & Yao "
        f"2024](https://arxiv.org/abs/2406.12288)), in the weights ({dtype}).",
        "",
        "## The edit",
        "",
        *([] if edit.weights else _factors(edit)),
        *_made(edit),
        f"- Chosen by: {_plain(_words(edit.chosen)) or 'not recorded'}",
        f"- Weights of the base (SHA-256, as bfloat16): `{edit.base.weights}`",
        "- All of it: `edit.json`, beside this file",
        "",
        _MEASURED,
        "",
        *_measured(edit),
        "",
        _LICENCE,
        "",
        f"That of the base model: {_plain(', '.join(licence.values())) or 'not known; see the base model'}.",
        "",
    ]
    return "\n".join(head + body)


def measured_again(folder: Path, edit: Edit) -> None:
    """Write what was measured into the card in an edit's model folder; what is no card of `model_card` of it stays as it is."""
    path = folder / "README.md"
    try:
        card = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    before, mark, rest = card.partition(_MEASURED)
    _, licence, after = rest.partition(_LICENCE)
    if mark and licence and edit.base.weights in before:
        text = "\n".join([before + mark, "", *_measured(edit), "", licence + after])
        write_text(path, text.encode("utf-8", "backslashreplace").decode())


def _changed(edit: Edit, neurons: str) -> str:
    return "weights that were trained" if edit.weights else f"{len(edit.neurons):,} of its {neurons} changed"


def _factors(edit: Edit) -> list[str]:
    values = sorted({f for pair in edit.factors.values() for f in pair})
    layers = sorted({n.layer for n in edit.neurons})
    more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    return [
        f"- {'One factor' if len(values) == 1 else 'Factors'} of the neurons' coefficients, and so of their value vectors: "
        + (f"{values[0]:g}" if len(values) == 1 else f"from {values[0]:g} to {values[-1]:g}" if values else "none"),
        f"- Offsets of coefficients: {len(edit.offsets):,}",
        f"- Layers: {', '.join(map(str, layers[:_SHOWN]))}{more}",
    ]


def _made(edit: Edit) -> list[str]:
    """How its numbers were found, if it says so: by training or by a search."""
    tuned = edit.chosen.get("tuned")
    trained = _words(tuned) if isinstance(tuned, Mapping) else ""
    said = {"Training": trained or ("not recorded" if edit.weights else ""), "Search": search(edit)}
    return [f"- {name}: {_plain(text)}" for name, text in said.items() if text]


def licence_of(source: str, folder: Path) -> dict[str, str]:
    """The base's licence as its card's head has it, as far as it is known: under license, license_name and license_link."""
    if source in MODELS:
        return {"license": MODELS[source].licence.lower()}
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            head = file.read(_LONGEST_HEAD).split("\n---", 1)[0]
    except OSError:
        return {}
    kinds = {"license": r"[\w.+-]*\w", "license_name": r"[\w.+-]*\w", "license_link": r"https?://[\w./:+%-]*[\w/]"}
    found = {
        key: said[2].lower() if key == "license" else said[2]
        for key, kind in kinds.items()  # a link to a file beside that card leads nowhere from another folder
        if (said := re.search(rf"^{key}:[ \t]*([\"']?)({kind})\1[ \t]*$", head, re.MULTILINE | re.ASCII))
    }
    return found if "license" in found else {}


def _measured(edit: Edit) -> list[str]:
    if not edit.measured:
        return ["Nothing yet: `cotscope evaluate` measures an edit."]
    rows = ["| problems | n | base | edited | difference (95 %) | p | other skills | perplexity |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for m in edit.measured:
        cells = (
            _plain(str(m.get("data"))) + ("" if _own(edit, m) else " (the edit on the base)"),
            _plain(str(m.get("n"))),
            _number(m, "accuracy_base"),
            _number(m, "accuracy"),
            f"{_number(m, 'difference', '+.3f')} [{_number(m, 'difference_low', '+.3f')}, "
            f"{_number(m, 'difference_high', '+.3f')}]",
            _number(m, "p_holm" if "p_holm" in m else "p_value", ".2g"),
            f"{_number(m, 'battery_base')} → {_number(m, 'battery')}",
            f"× {_number(m, 'perplexity_ratio')}",
        )
        rows.append("| " + " | ".join(cells) + " |")
    if not all(_own(edit, m) for m in edit.measured):
        rows += ["", "Where the edit was applied to the base, what the dtype of these weights rounds is not in it."]
    return rows


def _own(edit: Edit, measured: Mapping[str, Any]) -> bool:
    """Whether it is of the weights in the folder."""
    return bool(edit.weights) or measured.get("asked") == "weights"


def _number(m: Mapping[str, Any], key: str, form: str = ".3f") -> str:
    value = m.get(key)
    return f"{value:{form}}" if isinstance(value, int | float) and abs(value) < 1e9 else "–"


def _words(chosen: Mapping[str, Any]) -> str:
    hashes = ("found", "among", "of")
    return ", ".join(f"{k} {v}" for k, v in chosen.items() if isinstance(v, str | int | float) and k not in hashes)


def _plain(text: str) -> str:
    """A text of someone else's on one line, without what Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
