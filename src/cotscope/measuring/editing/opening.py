"""Edit files and model folders that are given to be compared: under which names, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...edits.edit import Edit
from ...errors import EditError, UserError, shown
from ...runs.options import DTYPES
from ...runs.places import path_of
from ...runs.session import Session
from .comparing import BASE, rounding_name


def opened(paths: Sequence[str]) -> dict[str, Edit]:
    """Edits by path, each under a name of its own. Raises: UserError for two of one name; EditError.

    What was folded into a folder's weights gets the folder's name too where another edit has its own, as the file has that it
    was folded from.
    """
    edits = {path: Edit.read(path) for path in dict.fromkeys(paths)}
    names = [edit.name for edit in edits.values()]
    folded = {path for path, e in edits.items() if names.count(e.name) > 1 and _holds_weights(path) and not e.weights}
    found = {
        path: replace(edit, name=f"{edit.name}@{Path(path).resolve().name}") if path in folded else edit
        for path, edit in edits.items()
    }
    taken = [*(edit.name for edit in found.values()), BASE, "none"]  # "none": where nothing is done (`completions.neuron_set`)
    if twice := next((n for n in taken if taken.count(n) > 1), None):
        raise UserError(
            "two edits have one name", expected=f"different names, and neither {BASE} nor none", got=shown(twice),
            remedy='It is the "name" in the file; `cotscope edit --name` gives another.',
        )  # fmt: skip
    return found


def of_own_weights(path: str, edit: Edit) -> bool:
    """Whether weights beside it are asked (trained ones, or a folder's that hold its factors), not the base with factors."""
    return bool(edit.weights) or (_holds_weights(path) and not edit.nothing)


def _holds_weights(path: str) -> bool:
    return Path(path).is_dir() and any(Path(path).glob("*.safetensors"))


def with_weights(session: Session, path: str, edit: Edit) -> Session:
    """The study with the model that an edit file lies beside. Raises: EditError if it is not the edit's; ModelError."""
    from ...edits.fold import stored_dtype

    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    other = session.with_model(str(folder))
    exported = edit.chosen.get("exported")
    wanted = edit.weights or (str(exported.get("weights")) if isinstance(exported, Mapping) else "")  # older folders: not known
    if wanted and (found := other.loaded.base_hash()) != wanted:
        raise EditError(f"the weights in {folder} are not those of edit {edit.name}", expected=f"{wanted[:12]}…",
                        got=f"{found[:12]}…", remedy="Train it, or export it, again.")  # fmt: skip
    if stored_dtype(str(folder)) == "float32" != (ours := session.loaded.dtype_name):
        session.run.note(f"The weights of {shown(edit.name)} are float32, and this study asks them in {ours}, which rounds "
                         "away what is small beside a weight. A study with --dtype float32 asks them as they are.")  # fmt: skip
    return other


def check_names(edits: Mapping[str, Edit], labels: Sequence[str]) -> None:
    """Names of edits and data become names of tables' parts. Raises: UserError."""
    untouched = [BASE, *map(rounding_name, DTYPES)]
    names = [f"{name} on {label}" for name in [*untouched, *(e.name for e in edits.values())] for label in labels]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError("two edits and their problems have one name together", expected="other names", got=shown(twice))
    for name in names:
        try:
            path_of(Path(), f"completions/evaluation.{name}")
            fits = name.isprintable() and not name.startswith(".")
        except ValueError:
            fits = False
        if not fits:
            raise UserError("the names of an edit and its problems can't name a file", expected="short ones without /",
                            got=shown(name))  # fmt: skip
