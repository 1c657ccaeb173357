"""Answer questions without labels, and say of each answer how likely it is right, by the predictor that a run has learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...data.answers import read_answer, written_answer
from ...data.load import load_questions
from ...data.spreadsheets import harmless_row
from ...errors import UserError, shown
from ...predicting.classifier import Classifier, unpacked
from ...predicting.shares import expected_share, risk_coverage
from ...predicting.templates import templates
from ...records import Neuron, Problem
from ...runs.files import fingerprint, hash_of, replacing
from ...runs.kept import Kept
from ...runs.session import Session
from ..choosing import REASONING
from .predictors import flat
from .tracing import Answer, token_probability, trace_all

PREDICTOR = "predictor"
"""Arrays of the run: the classifier, safetensors with JSON in its header."""
KINDS = (".jsonl", ".csv", ".parquet")
FEWEST, ALARM = 8, 0.01
"""Answers from which on they are compared with those learned on; the p below which a warning is given."""
TOGETHER = 128  # questions after which what was answered is kept
KEPT = 0.5  # of the most trusted answers, for the line that is printed


def answer(session: Session, questions: str, to: str | None) -> str:
    """Answer a file's questions and write answers and probabilities. Returns: what is expected of them, in a line.

    Raises: UserError for a file that exists or of another kind, if the run has no predictor, or one of another model.
    """
    problems = load_questions(questions)
    path = Path(to) if to else Path(questions).with_suffix(".answers.jsonl")
    if path.suffix not in KINDS:
        raise UserError(f"{path}: unknown kind of file", expected=" or ".join(KINDS), got=shown(path.suffix))
    if path.exists():
        raise UserError(f"{path} exists already", expected="a new file", remedy="Give another one with --to, or remove it.")
    file = session.run.folder / "arrays" / f"{PREDICTOR}.safetensors"
    if not session.run.state("predict").current:
        raise UserError(
            f"{session.run.folder} has no predictor that holds", expected="`cotscope predict` to have run",
            got=session.run.state("predict").status, remedy=f"Run `cotscope predict {session.run.folder}` first.",
        )  # fmt: skip
    classifier, about = unpacked(file)
    if about["weight_sha256"] != session.loaded.weight_hash():
        raise UserError(
            "the predictor was learned on another model", expected=about["model"], got=session.config.model,
            remedy=f"Run `cotscope predict {session.run.folder}` again.",
        )  # fmt: skip
    if "together" not in about:
        raise UserError("the predictor was learned by an older cotscope",
                        remedy=f"Run `cotscope predict {session.run.folder}` again.")  # fmt: skip
    prompt = session.prompt
    session.model.check_lengths([prompt], problems, 0)
    asked = [(p.id, p.question) for p in problems]
    kept = Kept(path, fingerprint(hash_of(file), asked, session.config.new_tokens(prompt), prompt.text("")))
    rows = _answered(session, problems, classifier, about, kept)
    found, of = [r["probability"] for r in rows], templates([r["question"] for r in rows])
    sure = by_template([r.pop("sure") for r in rows], of)
    _write(path, rows)
    kept.remove()
    share, low, high = expected_share(found, about["off"], of, about["together"])
    half = next(right for coverage, right in risk_coverage(found, found) if coverage >= KEPT)
    but = unlike(sure, about["sure"])
    return (
        f"{len(rows)} answers in {path}: {share:.3f} [{low:.3f}, {high:.3f}] are expected to be right, of the half that is "
        f"trusted most {half:.3f}, if they are like those that the predictor was learned on{but}"
    )


def _answered(
    session: Session, problems: Sequence[Problem], classifier: Classifier, about: dict[str, Any], kept: Kept
) -> list[dict[str, Any]]:
    """A row of each question.

    Args:
        about: what the classifier's file says of it.
        kept: what was answered, which is not asked again.
    """
    prompt, neurons = session.prompt, [Neuron(*n) for n in about["neurons"]]
    rows = list[dict[str, Any]]()
    with session.bar("answering", len(problems), "question") as bar:

        def answered(some: Sequence[Problem]) -> list[dict[str, Any]]:
            written = session.engine.generate(
                [prompt.text(p.question) for p in some], max_new_tokens=session.config.new_tokens(prompt), stop=prompt.stop,
                progress=lambda ended, tokens: bar.update(ended),
            )  # fmt: skip
            given = []
            for problem, c in zip(some, written, strict=True):
                read = read_answer(c.text, session.inputs.words).flexible
                given.append(Answer(problem, c.text, c.token_ids, False, None if read is None else written_answer(read)))
            traces = trace_all(session, prompt, given, sorted(neurons), "tracing the answers")
            told_by = traces.sizes[:, :, traces.of(neurons)] if about["told_by"] == REASONING else traces.confidence[:, -1]
            probabilities, sure = classifier.probabilities(flat(told_by)), token_probability(traces)
            return [
                {"id": a.problem.id, "question": a.problem.question, "answer": a.read, "text": a.text,
                 "probability": float(p), "sure": float(s)}
                for a, p, s in zip(given, probabilities, sure, strict=True)
            ]  # fmt: skip

        for start in range(0, len(problems), TOGETHER):
            some = problems[start : start + TOGETHER]
            rows += kept.value(f"{start} to {start + len(some)}", partial(answered, some))
            bar.update(len(rows) - bar.n)
    return rows


def by_template(sure: Sequence[float], of: Sequence[int]) -> NDArray[np.float64]:
    """Mean token probability (`token_probability`) of each template's answers: answers of one are no two findings."""
    known = np.asarray(sure, float)
    return np.array([known[np.asarray(of) == t].mean() for t in dict.fromkeys(of)])


def unlike(here: NDArray[np.float64], there: Sequence[float]) -> str:
    """A warning if the answers are worded more or less surely than those that were learned on: probabilities are then off.

    Args:
        here, there: mean token probability of each template's answers (`by_template`).
    """
    from scipy.stats import ks_2samp

    if len(here) < FEWEST or (p := ks_2samp(here, there).pvalue) >= ALARM:
        return ""
    return (
        f", which they are not: mean token probability {np.mean(here):.3f} here, {np.mean(there):.3f} there "
        f"(Kolmogorov-Smirnov p = {p:.1g})"
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, temporary)
        elif path.suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(pa.Table.from_pylist([*map(harmless_row, rows)], table.schema), temporary)
        else:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
