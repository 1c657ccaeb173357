"""Variants: accuracy and activity under many more prompts, so that the two can be correlated.

Two families: few-shot prompts of random exemplars under every perturbation, and zero-shot prompts that differ in one
sentence. Both are measured on the first test problems; teacher-forced activity on a few of the reference solutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..measuring.activity import MeasuredPrompt, prompt_rows, record_forced, write_problems
from ..measuring.generation import Condition, solve
from ..measuring.solutions import BASELINE, reference_solutions
from ..prompts.sentences import KINDS
from ..runs.inputs import Inputs
from ..runs.model import StudyModel
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import ANNOTATIONS, POLES, PROMPTS, SENTENCE_KINDS, SOLUTIONS
from ..stats import paired_bootstrap, paired_shares

FAMILIES = ("variant", "sentence")
SOLUTIONS_USED = 8  # reference solutions that teacher-forced activity is measured on: the first ones, to save time
MANY = 40  # variants, where `measure --prompts variants` does not say how many
_MEASURED = (
    ("accuracy", "prompt_problems", "correct::INT"),
    ("activity", "prompt_problems", "poles_per_token"),
    ("fixed", "forced_problems", "poles_per_token"),
)

UNITS = {
    "variants.problems": "test problems, the first ones, that variants and sentences are measured on",
    "variants.solutions": "reference solutions, the first ones, that their teacher-forced activity is measured on",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    variants: int = option(0, "prompts made of random exemplars, measured for the correlation", kind="natural")
    sentences: bool = option(False, "measure zero-shot sentences for the correlation")
    variant_limit: int = option(32, "test problems that variants and sentences are measured on", kind="positive")


def check(inputs: Inputs, model: StudyModel, options: Options) -> None:
    """Raises: PromptError if the exemplars do not allow so many variants, or a prompt is too long for the model."""
    model.check_lengths([e.prompt for e in inputs.extra_prompts(options.variants, options.sentences)])


def variants(session: Session, options: Options) -> str:
    """Run the stage. Prompts that have been run are not run again.

    Raises: PromptError, before anything runs, as `check` does.
    """
    run = session.run
    if _idle(options):
        reference_solutions(session)  # are others' too, and stay
        return "no variants and no sentences were asked for"
    check(session.inputs, session.model, options)
    extra = session.inputs.extra_prompts(options.variants, options.sentences)
    prompts = [MeasuredPrompt(e.prompt, e.family, e.kind, e.exemplars) for e in extra]
    record_forced(session, prompts, reference_solutions(session)[:SOLUTIONS_USED])
    conditions = [Condition(p.family, p.prompt, "test", record=True, limit=options.variant_limit) for p in prompts]
    solve(session, conditions, "measuring variants")
    write_problems(session, "extra", FAMILIES)
    rows = prompt_rows(session, prompts)
    run.write(PROMPTS, rows, "extra")
    run.write(SENTENCE_KINDS, _kinds(session))
    [forced] = run.rows("SELECT count(DISTINCT problem_id) AS n FROM forced_problems WHERE family != 'study'")
    problems = min(options.variant_limit, len(session.inputs.split.test))
    counts = {"variants": options.variants, "sentences": len(extra) - options.variants}
    run.summarise("variants", counts | {"problems": problems, "solutions": forced["n"]})
    return f"{len(rows)} more prompts measured on {problems} problems each"


def _kinds(session: Session) -> list[dict[str, Any]]:
    """What each kind of sentence does, with intervals over problems: the sentences of a kind are what they are."""
    run, rows = session.run, []
    for kind in KINDS:
        [found] = run.rows("SELECT count(*) AS prompts FROM prompts WHERE family = 'sentence' AND kind = ?", [kind])
        if not found["prompts"]:
            continue
        row: dict[str, Any] = {"kind": kind} | found
        for name, table, column in _MEASURED:
            values = run.rows(
                f"""SELECT avg(t.{column}) AS value FROM {table} t JOIN prompts p USING (family, prompt)
                    WHERE family = 'sentence' AND kind = ? GROUP BY problem_id ORDER BY problem_id""",
                [kind],
            )
            ends = (paired_shares if name == "accuracy" else paired_bootstrap)(
                [v["value"] for v in values], session.config.seed
            )
            if name == "accuracy":  # which a difference is not
                ends = (ends[0], max(0.0, ends[1]), min(1.0, ends[2]))
            row |= {f"{name}_n": len(values)} | dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        rows.append(row)
    return rows


def _idle(options: Options) -> bool:
    return options.variants == 0 and not options.sentences


STAGE = Stage(
    "variants",
    "measure",
    "the same under prompts of random exemplars, and zero-shot sentences (--prompts variants, sentences)",
    variants,
    Options,
    after=("annotate", "measure"),
    reads=(POLES, ANNOTATIONS, BASELINE),
    writes=("completions/variant.", "completions/sentence.", "activity/variant.", "activity/sentence.", "forced/variant.",
            "forced/sentence.", "forced_scores/variant.", "forced_scores/sentence.", SOLUTIONS, "prompt_problems/extra",
            "forced_problems/extra", "prompts/extra", SENTENCE_KINDS),
    units=UNITS,
    chosen_by={"--prompts": {"variants": {"variants": MANY}, "sentences": {"sentences": True}}},
    wanted=lambda options: not _idle(options),
    idle=_idle,
    check=check,
)  # fmt: skip
