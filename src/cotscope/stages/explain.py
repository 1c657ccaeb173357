"""Explain: does the reasoning neurons' activity move with accuracy? Over prompts, and for the four phenomena.

The claim to test is the paper's (Rai & Yao 2024, section 5): where a change of the prompt changes accuracy, it changes
the activity of reasoning neurons the same way.

Reads: `prompts`, `prompt_problems`. Writes: `phenomena`.
"""

from __future__ import annotations

from ..session import Session
from ..stats import detectable_difference, holm, mcnemar_exact, paired_bootstrap, sign_flip_p, spearman

# Each phenomenon and the prompts that show it: the derived ones, then the stems of the paper's files.
PHENOMENA = {
    "without_formulas": ("text_only",),
    "without_text": ("formulas_only", "equation_only"),
    "one_operation": (
        "addition_only", "subtraction_only", "multiplication_only", "division_only", "add_only", "mult_only",
    ),
    "wrong_results": ("wrong_results", "incorrect_label"),
}  # fmt: skip

RULE = (
    "Accuracy has changed if its exact McNemar p, Holm-adjusted over the phenomena, is below 0.05; activity has changed "
    "if the 95 % paired bootstrap interval of its change leaves 0 out. Both, in the same direction: explained. Both, in "
    "opposite directions: contradicted. Accuracy alone: accuracy moves without activity. Activity alone, or neither: "
    "said so, unless these problems could show (with 80 % power, the level shared by the phenomena) only a change in "
    "accuracy above 0.15: too few problems to "
    "tell. A phenomenon that several prompts show is judged on each problem's mean over them, accuracy then by a "
    "sign-flip permutation test."
)


def explain(session: Session) -> None:
    """Run the stage."""
    run = session.run
    run.require("measure", f"cotscope measure {run.folder}")
    with run.stage("explain", {"phenomena.verdict": RULE}):
        prompts = run.rows("SELECT prompt, accuracy, poles_per_token FROM prompts")
        rho, low, high, p = spearman(
            [r["poles_per_token"] for r in prompts], [r["accuracy"] for r in prompts], session.config.seed
        )
        run.summarise(
            "correlation",
            {"spearman": rho, "ci": [low, high], "p_value": p, "prompts": len(prompts), "activity": "own_activity"},
        )
        rows = _phenomena(session)
        if rows:
            run.write_rows("phenomena", rows)
        keys = ("accuracy_change", "activity_change", "verdict", "detectable")
        run.summarise(
            "phenomena", {r["phenomenon"]: {k: r[k] for k in keys} | {"p_value": r["accuracy_p_holm"]} for r in rows}
        )


def _phenomena(session: Session) -> list[dict]:
    seed = session.config.seed
    reference = session.prompts[0].name
    solved, active = _per_problem(session)
    problems = sorted(solved[reference])
    rows = []
    for phenomenon, names in PHENOMENA.items():
        shown = [n for n in names if n in solved and n != reference]
        if not shown:
            continue
        accuracy = [sum(solved[n][i] for n in shown) / len(shown) - solved[reference][i] for i in problems]
        activity = [sum(active[n][i] for n in shown) / len(shown) - active[reference][i] for i in problems]
        change, low, high = paired_bootstrap(accuracy, seed)
        activity_change, activity_low, activity_high = paired_bootstrap(activity, seed)
        if len(shown) == 1:
            p = mcnemar_exact([solved[reference][i] for i in problems], [solved[shown[0]][i] for i in problems])
        else:
            p = sign_flip_p(accuracy, seed)
        rows.append(
            {
                "phenomenon": phenomenon,
                "prompts": shown,
                "n": len(problems),
                "accuracy_change": change,
                "accuracy_low": low,
                "accuracy_high": high,
                "accuracy_p": p,
                "activity_change": activity_change,
                "activity_low": activity_low,
                "activity_high": activity_high,
                "discordant": sum(a * a for a in accuracy) / len(problems),
            }
        )
    for row, adjusted in zip(rows, holm([r["accuracy_p"] for r in rows])):
        row["detectable"] = detectable_difference(row.pop("discordant"), row["n"], tests=len(rows))
        row["accuracy_p_holm"] = adjusted
        row["verdict"] = verdict(row)
    return rows


def verdict(row: dict) -> str:
    """The rule `RULE` on one row of the table."""
    accuracy = row["accuracy_p_holm"] < 0.05
    activity = row["activity_low"] > 0 or row["activity_high"] < 0
    if accuracy and activity:
        same = (row["accuracy_change"] > 0) == (row["activity_change"] > 0)
        return "explained" if same else "contradicted"
    if accuracy:
        return "accuracy moves without activity"
    if row["detectable"] > 0.15:
        return "too few problems to tell"
    return "activity moves without accuracy" if activity else "no change"


def _per_problem(session: Session) -> tuple[dict[str, dict[str, bool]], dict[str, dict[str, float]]]:
    """prompt → problem id → solved; prompt → problem id → active reasoning poles per token."""
    solved: dict[str, dict[str, bool]] = {}
    active: dict[str, dict[str, float]] = {}
    for row in session.run.rows("SELECT * FROM prompt_problems"):
        solved.setdefault(row["prompt"], {})[row["problem_id"]] = row["correct"]
        active.setdefault(row["prompt"], {})[row["problem_id"]] = row["poles_per_token"]
    return solved, active
