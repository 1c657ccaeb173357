"""Variants: accuracy and activity under many more prompts, so that the two can be correlated.

Two families: few-shot prompts of random exemplars under every perturbation, and zero-shot prompts that differ in one
sentence. Both are measured on the first `StudyConfig.variant_limit` test problems; fixed activity on a few of the
given solutions.

Reads: `annotations`, completions of the first prompt. Writes: completions and activity of `variant.<prompt>`;
`variant_fixed` and `variant_given` (a file per prompt); `variant_problems`, `variant_fixed_problems`, `variants`,
`sentence_kinds`.
"""

from __future__ import annotations

from ..measuring.activity import Place, prompt_rows, record_fixed, write_problems
from ..measuring.generation import Condition, solve
from ..measuring.solutions import continuations
from ..prompts.sentences import KINDS
from ..runs.session import THOROUGH, Session
from ..stats import paired_bootstrap

PLACE = Place("variant", "variant_problems", "variant_fixed", "variant_given", "variant_fixed_problems")
SOLUTIONS = 8  # given solutions that fixed activity is measured on: the first ones, to save time
_MEASURED = (
    ("accuracy", PLACE.problems, f"{PLACE.problems}.correct::INT"),
    ("activity", PLACE.problems, f"{PLACE.problems}.poles_per_token"),
    ("fixed", PLACE.fixed_problems, f"{PLACE.fixed_problems}.poles_per_token"),
)

UNITS = {
    "variants.problems": "test problems, the first ones, that variants and sentences are measured on",
    "variants.solutions": "given solutions, the first ones, that their fixed activity is measured on",
}


def variants(session: Session, count: int = 0, sentences: bool = False) -> None:
    """Run the stage. Prompts that have been run are not run again.

    Args:
        count: how many variants; never fewer than the study's configuration asks for or an earlier run measured.
        sentences: measure sentences too; likewise. With none of these as many as a thorough study has, and sentences.

    Raises: PromptError, before anything runs, if the exemplars allow fewer variants or a prompt is too long.
    """
    run, config = session.run, session.config
    run.require("measure", f"cotscope measure {run.folder}")
    with run.stage("variants", UNITS):
        before = run.manifest.get("variants", {"variants": 0, "sentences": False})
        count = max(count, config.variants, before["variants"])
        sentences = sentences or config.sentences or before["sentences"]
        if not count and not sentences:
            count, sentences = THOROUGH["variants"], True
        extra = session.extra_prompts(count, sentences)
        run.manifest["variants"] = {"variants": count, "sentences": sentences}
        run.save()
        record_fixed(session, PLACE, [e.prompt for e in extra], continuations(session)[:SOLUTIONS])
        conditions = [
            Condition(f"variant.{e.prompt.name}", e.prompt, "test", record=True, limit=config.variant_limit) for e in extra
        ]
        solve(session, conditions, "measuring variants")
        write_problems(session, PLACE)
        made_of = [
            {
                "family": e.family,
                "kind": e.kind,
                "exemplars": e.exemplars,
                "prompt_tokens": len(session.loaded.encode(e.prompt.text(""))),
            }
            for e in extra
        ]
        rows = prompt_rows(session, PLACE, [e.prompt.name for e in extra])
        run.write_rows("variants", [row | parts for row, parts in zip(rows, made_of, strict=True)])
        run.write_rows("sentence_kinds", _kinds(session))
        [fixed] = run.rows(f"SELECT count(DISTINCT problem_id) AS n FROM {PLACE.fixed_problems}")
        problems = min(config.variant_limit, len(session.split.test))
        run.summarise("variants", {"variants": count, "sentences": len(extra) - count, "problems": problems,
                                   "solutions": fixed["n"]})  # fmt: skip


def _kinds(session: Session) -> list[dict]:
    """What each kind of sentence does, with intervals over problems: the sentences of a kind are what they are."""
    run, rows = session.run, []
    for kind in KINDS:
        [found] = run.rows("SELECT count(*) AS prompts FROM variants WHERE family = 'sentence' AND kind = ?", [kind])
        if not found["prompts"]:
            continue
        row = {"kind": kind} | found
        for name, table, column in _MEASURED:
            values = run.rows(
                f"""SELECT avg({column}) AS value FROM {table} JOIN variants USING (prompt)
                    WHERE family = 'sentence' AND kind = ? GROUP BY problem_id ORDER BY problem_id""",
                [kind],
            )
            ends = paired_bootstrap([v["value"] for v in values], session.config.seed)
            row |= {f"{name}_n": len(values)} | dict(zip((name, f"{name}_low", f"{name}_high"), ends))
        rows.append(row)
    return rows
