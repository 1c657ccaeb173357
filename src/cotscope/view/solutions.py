"""What the model wrote, token by token: any problem under any condition of a run, and which poles were active there.

Run folders hold the activity by problem and role only. That of single tokens is computed again where it is asked for:
the model is made to write the very same tokens, and watched.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..edits.edit import EDIT_FILE, Edit
from ..errors import UserError, shown
from ..measuring.editing.asking import skills_of
from ..measuring.editing.comparing import rounding_name
from ..measuring.neurons import comparison, read_sets
from ..records import Neuron, Pole, Prompt
from ..runs.folder import Run
from ..runs.options import DTYPES
from ..runs.progress import matches
from ..runs.session import Session
from ..runs.stage import options_of, stale_because
from ..stages.registry import BY_NAME
from .neurons import Neurons

if TYPE_CHECKING:
    from torch import Tensor

    from ..lm.engine import Engine
    from ..lm.interventions import Intervention

_KEPT = 64  # completions whose activity is kept
_LARGEST_EDIT = 2**26  # bytes: whoever made a run folder says where its edits lie
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
OTHER_MODEL = "cascade"  # the family of what another model wrote
# Texts of problems as each family has them: files of one name may hold other problems. A study's test problems are "study"
# where other data stand beside them (`measuring/problems.py`).
PROBLEM_TEXTS = """(
    SELECT family, problem_id, split, arg_min(question, later) AS question, arg_min(answer, later) AS answer FROM (
        SELECT unnest(['prediction', 'cascade']) AS family, problem_id, data AS split, question, answer, 0 AS later
        FROM predicted
        UNION ALL SELECT 'evaluation', problem_id, data, question, answer, 0 FROM evaluations_by_problem
        UNION ALL SELECT family, problem_id, name, question, answer, 1
        FROM problems, (SELECT unnest([split, 'study']) AS name), (SELECT DISTINCT family FROM completions)
        WHERE name = split OR split = 'test'
    ) GROUP BY ALL
)"""
_COMPLETION = (
    "SELECT condition, family, prompt, neuron_set, split, problem_id, text, token_ids, roles, finish, flexible, correct "
    "FROM completions WHERE condition = ? AND problem_id = ?"
)


def conditions(run: Run) -> list[dict[str, Any]]:
    """Every condition of a run, and how many problems were solved under it."""
    return run.rows(
        """FROM (SELECT condition, family, prompt, neuron_set, split, count(*) AS n, count(*) FILTER (correct) AS correct
                 FROM completions GROUP BY ALL)
           ORDER BY family != 'study', family, condition"""
    )


def problems(run: Run, condition: str, beside: str = "") -> list[dict[str, Any]]:
    """The problems that were asked under a condition, whether they were solved, and whether they were under another one.

    Problems of two data sets can have one name: those with the same question are the same.
    """
    return run.rows(
        f"""WITH asked AS (
                SELECT c.condition, c.problem_id, p.question, p.answer, c.flexible, c.correct
                FROM completions c LEFT JOIN {PROBLEM_TEXTS} p USING (family, problem_id, split) WHERE c.condition IN (?, ?)
            )
            SELECT a.* EXCLUDE (condition), o.correct AS beside
            FROM asked a LEFT JOIN asked o ON o.condition = ? AND o.problem_id = a.problem_id AND o.question = a.question
            WHERE a.condition = ? ORDER BY a.problem_id""",
        [condition, beside, beside, condition],
    )


def completion(run: Run, condition: str, problem: str) -> dict[str, Any]:
    """What was written for one problem under one condition. Raises: UserError if nothing was."""
    rows = run.rows(_COMPLETION, [condition, problem])
    if not rows:
        raise UserError(f"nothing was written for problem {shown(problem)} under {shown(condition)}")
    return rows[0]


def answer_to(run: Run, condition: str, problem: str, asked: str) -> dict[str, Any]:
    """What was written under a condition for the problem of this name and question. Raises: UserError if nothing was."""
    row = completion(run, condition, problem)
    if question(run, row)["question"] != asked:
        raise UserError(f"under {shown(condition)} problem {shown(problem)} is another one, of other data")
    return row


def question(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """The text and answer of the problem that a row of `completions` is of. Raises: UserError if the run has none."""
    found = run.rows(
        f"SELECT question, answer, split FROM {PROBLEM_TEXTS} WHERE family = ? AND problem_id = ? AND split = ?",
        [row["family"], row["problem_id"], row["split"]],
    )
    if not found:
        raise UserError(f"the run has no text of problem {shown(row['problem_id'])}")
    return found[0]


def stale(run: Run, condition: str) -> str:
    """Which stage wrote under a condition and is stale, and why, in words; "" if none is, or another one holds that has it."""
    stages = [n for n, record in run.manifest["stages"].items() if matches(f"completions/{condition}", record["writes"])]
    states = {name: run.state(name) for name in stages}
    said = [f"{name} is {stale_because(found)}" for name, found in states.items() if found.status == "stale"]
    return said[0] if said and not any(found.current for found in states.values()) else ""


def words(text: str) -> list[str]:
    """A text in words, blanks and signs, which together are the text."""
    return _WORDS.findall(text)


def differing(one: Sequence[Any], other: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Places of each of two sequences that the other one does not have."""
    found: tuple[list[int], list[int]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind != "equal":
            found[0].extend(range(a, b))
            found[1].extend(range(c, d))
    return found


def prompt_of(session: Session, name: str) -> Prompt:
    """A prompt of the study, or one of the prompts that were measured beside them. Raises: UserError."""
    inputs = session.inputs
    try:
        every = list(inputs.prompts)
    except UserError as error:
        raise UserError(
            f"the study's prompts can't be had: {error}",
            remedy="If their files are still there: start the viewer in the folder in which the study was begun.",
        ) from error
    if name not in {p.name for p in every}:
        asked = session.run.manifest["options"].get("variants", {})
        every += [e.prompt for e in inputs.extra_prompts(int(asked.get("variants", 0)), bool(asked.get("sentences")))]
    found = next((p for p in every if p.name == name), None)
    if found is None:
        raise UserError(f"the study has no prompt {shown(name)} any more", expected=" or ".join(p.name for p in every[:12]))
    return found


def intervention_of(session: Session, row: dict[str, Any]) -> Intervention | None:
    """What was done to the model under a completion's condition; None: nothing.

    Raises: UserError where the run folder does not hold enough to do it again.
    """
    from ..lm.interventions import scale

    family, name, run = row["family"], row["neuron_set"], session.run
    if name == "none" and family != OTHER_MODEL:
        return None
    if family == "evaluation" and name in map(rounding_name, DTYPES):
        raise UserError(f"this was written by the untouched model, {shown(name)}",
                        remedy="Its text can be read; its activity is seen in a study in that precision.")  # fmt: skip
    if family == "evaluation":
        return evaluated(session, name).intervention(session.loaded.anatomy)
    if why := stale(run, row["condition"]):
        raise UserError(f"what was done to the model under {row['condition']} may be something else by now: {why}",
                        remedy="Its text can be read; its activity can't be computed again.")  # fmt: skip
    sets, path = read_sets(run), "both"
    neurons: list[Neuron] = []
    if family == "ablation" and name in sets:
        neurons = list(sets[name].neurons)
    elif family == "push" and name in ("direct", "indirect"):
        neurons, path = list(sets[comparison(sets.values())].neurons), name
    elif family == "selection":
        rows = run.rows(
            "SELECT layer, index FROM selections JOIN selected USING (selection) WHERE neuron_set = ? AND rank < neurons "
            "ORDER BY rank",
            [name],
        )
        neurons = [Neuron(r["layer"], r["index"]) for r in rows]
    if not neurons:
        raise UserError(f"the run folder does not hold what was done to the model under {row['condition']}",
                        remedy="Its text can be read; its activity can't be computed again.")  # fmt: skip
    return scale(session.loaded.anatomy, neurons, 0.0).along(path)  # type: ignore[arg-type]  # a Path, as its name says


def evaluated(session: Session, name: str) -> Edit:
    """The edit of this name, from its file, if that does what the one did that the run has evaluated. Raises: UserError."""
    run, stage = session.run, BY_NAME["evaluate"]
    record = run.manifest["stages"].get(stage.name, {"status": "missing", "options": {}})
    options = options_of(stage, record["options"])
    measured = run.manifest["files"].get(f"evaluation_skills/{name}", {})  # made from the edit's key, as the stage does it
    places = [at for path in options.edit for at in (Path(path), Path(run.manifest.get("cwd") or "", path))]
    found = [edit for edit in map(_edit_at, places) if edit is not None and edit.name == name]
    if any(edit.weights for edit in found):
        raise UserError(f"{shown(name)} is a model of its own, and no edit of this study's",
                        remedy="Its text can be read; its activity is seen in a study of that model.")  # fmt: skip
    for edit in found if record["status"] == "done" else ():
        if skills_of(edit.key, edit.scope == "generated", options.skills) == measured.get("of"):
            edit.check(session.loaded)
            return edit
    why = "does something else now" if found else "is not found from where the viewer was started"
    why = f"its file {why}" if record["status"] == "done" else f"stage evaluate is {record['status']}"
    raise UserError(
        f"edit {shown(name)} can't be made again: {why}",
        remedy="Its text can be read; its activity can't be computed again." if found or record["status"] != "done" else
        "Start the viewer where `cotscope evaluate` was started.",
    )  # fmt: skip


def _edit_at(path: Path) -> Edit | None:
    """The edit that a file, or a model's folder, holds; None if it holds none."""
    try:
        file = path / EDIT_FILE if path.is_dir() else path
        return Edit.read(file) if file.stat().st_size <= _LARGEST_EDIT else None
    except (OSError, ValueError):  # `EditError` is one
        return None


@dataclass(frozen=True)
class Steps:
    """The active poles at each token of a text.

    Attributes:
        pieces: the tokens.
        index, coefficient: (tokens, layers, k).
        size: of the updates, |coefficient| · ‖v‖, (tokens, layers, k).
    """

    pieces: list[str]
    index: NDArray[np.int32]
    coefficient: NDArray[np.float32]
    size: NDArray[np.float32]

    def of_pole(self, pole: Pole) -> list[float]:
        """A pole's update size at each token; 0 where it is not active. With sign 0: of either sign."""
        here = (self.index[:, pole.layer] == pole.index) & (self.coefficient[:, pole.layer] * (pole.sign or 1) != 0)
        if pole.sign:
            here &= np.sign(self.coefficient[:, pole.layer]) == pole.sign
        return [float(v) for v in np.where(here, self.size[:, pole.layer], 0).sum(axis=1).round(4)]

    def at(self, token: int) -> list[tuple[Pole, float, float]]:
        """The poles that were active at a token: pole, update size, coefficient; by layer, the largest first."""
        found = []
        for layer, index in enumerate(self.index[token]):
            for place in np.argsort(-self.size[token, layer]):
                if coefficient := float(self.coefficient[token, layer, place]):
                    pole = Pole(layer, int(index[place]), 1 if coefficient > 0 else -1)
                    found.append((pole, float(self.size[token, layer, place]), coefficient))
        return found


class Marks:
    """Which poles stand for which concept, as an array, so that they are counted at once.

    Args:
        marked: the accepted poles and their concepts.
        shape: layers, neurons per layer.
    """

    def __init__(self, marked: dict[Pole, list[str]], shape: tuple[int, int]) -> None:
        self.concepts = sorted({c for found in marked.values() for c in found})
        self._is = np.zeros((*shape, 2, len(self.concepts) + 1), dtype=bool)  # the last one: of any concept
        for pole, found in marked.items():
            here = self._is[pole.layer, pole.index, int(pole.sign > 0)]
            here[[*map(self.concepts.index, found), -1]] = True

    def count(self, index: NDArray[Any], coefficient: NDArray[Any]) -> NDArray[np.int64]:
        """Active poles by concept, and last of all of them, (…, concepts + 1), of active neurons (…, layers, k)."""
        layer = np.arange(index.shape[-2])[:, None]
        marks = self._is[layer, index, (coefficient > 0).astype(int)]
        return np.asarray((marks & (coefficient != 0)[..., None]).sum(axis=(-3, -2)))


class Watched:
    """The activity of completions, computed once each."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Steps] = OrderedDict()

    def steps(self, session: Session, engine: Engine, row: dict[str, Any], asked: str) -> Steps:
        """The active poles at each token of a completion (a row of `completions`) to a question."""
        ids, manifest = tuple(row["token_ids"]), session.run.manifest
        made_of = manifest["files"].get(f"completions/{row['condition']}", {}).get("of")  # an edit's key, a set's neurons
        key = (session.run.folder, manifest["model"]["weight_sha256"], row["condition"], made_of, row["problem_id"], ids)
        if key not in self._kept:
            self._kept[key] = _watch(session, engine, row, ids, asked)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


def _watch(session: Session, engine: Engine, row: dict[str, Any], ids: tuple[int, ...], asked: str) -> Steps:
    from ..lm.recorders import ActivePoles
    from ..lm.scoring import Given, score

    loaded = session.loaded
    pieces = [loaded.piece(i) for i in ids]
    if not ids:
        empty = np.zeros((0, loaded.anatomy.layers, session.config.k))
        return Steps([], empty.astype(np.int32), empty.astype(np.float32), empty.astype(np.float32))
    recorder = ActivePoles(loaded.anatomy, session.config.k, keep_steps=True)
    text = prompt_of(session, row["prompt"]).text(asked)
    first = (frozenset({0}),)  # nothing is asked of the scores
    score(engine, Given((text,), (ids,), first, recorder, intervention_of(session, row)))
    index, coefficient = as_arrays(recorder.steps[0])
    norms = loaded.anatomy.norms.cpu().numpy()
    size = np.abs(coefficient) * norms[np.arange(index.shape[1])[:, None], index]
    return Steps(pieces, index, coefficient, size.astype(np.float32))


def as_arrays(kept: tuple[Tensor, ...]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Indices and coefficients as a recorder keeps them."""
    index, coefficient = kept
    return index.cpu().numpy().astype(np.int32), coefficient.cpu().float().numpy()


def at_token(steps: Steps, token: int, neurons: Neurons) -> list[dict[str, Any]]:
    """The active poles at a token as rows, with what they promote and stand for."""
    found, marked = steps.at(token), neurons.marked()
    promoted = neurons.promoted([pole for pole, _, _ in found])
    return [
        {**pole._asdict(), "size": round(size, 4), "coefficient": round(coefficient, 4), "concepts": marked.get(pole, []),
         "promoted": promoted.get(pole, [])[:4]}
        for pole, size, coefficient in found
    ]  # fmt: skip
