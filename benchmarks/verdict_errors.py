"""What the rule for the phenomena says of sets whose labels chance gave: `python benchmarks/verdict_errors.py RUN`.

RUN is a finished study; no model runs. 300 sets of as many poles of each stratum as the reasoning poles are judged as these
are, on generated activity: by the rule, and without the rank among permuted sets.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from cotscope.measuring.labels import Labels
from cotscope.runs.session import Session
from cotscope.stats import equivalence, holm, sign_flip_p
from cotscope.stats.labels import beyond_p, permuted_sums
from cotscope.stats.verdicts import STILL, ActivityChange, verdict

SETS = 300


def main(folder: Path) -> None:
    session = Session.reopen(folder)
    labels, run, first = Labels.read(session), session.run, session.prompt.name
    found = {r["phenomenon"]: r for r in run.rows("SELECT * FROM phenomena")}
    table = run.query(
        """WITH numbered AS (SELECT layer, index, sign, row_number() OVER (ORDER BY layer, index, sign) - 1 AS place FROM poles)
           SELECT place, prompt, problem_id, sum(steps / tokens) AS value
           FROM activity JOIN numbered USING (layer, index, sign)
                JOIN completions USING (condition, family, prompt, problem_id)
           WHERE family = 'study' GROUP BY place, prompt, problem_id"""
    )
    prompts, problems = (sorted(set(table[name].to_pylist())) for name in ("prompt", "problem_id"))
    activity = np.zeros((len(labels.layer), len(prompts), len(problems)))
    where = [np.searchsorted(names, table[key].to_pylist()) for key, names in (("prompt", prompts), ("problem_id", problems))]
    activity[table["place"].to_numpy(), *where] = table["value"].to_numpy()
    sums = permuted_sums(activity.reshape(len(activity), -1), labels.reasoning, labels.alike, seed=1)
    of = dict(zip(prompts, sums.reshape(-1, len(prompts), len(problems)).swapaxes(0, 1)))  # prompt → (sets, problems)
    changes = {name: np.mean([of[p] for p in row["prompts"]], axis=0) - of[first] for name, row in found.items()}
    said: dict[tuple[str, bool], Counter[str]] = {(name, rank): Counter() for name in found for rank in (False, True)}
    for i in range(SETS):
        others = np.arange(len(sums)) != i
        moved = holm([sign_flip_p(c[i], i) for c in changes.values()])
        beyond = holm([beyond_p(c[i].mean(), c[others].mean(axis=1)) for c in changes.values()])
        for (name, row), p, p_beyond in zip(found.items(), moved, beyond):
            still = equivalence(changes[name][i], STILL * of[first][i].mean(), i)[2]
            accuracy = row["accuracy_change"], row["accuracy_p_holm"]
            for rank in (False, True):
                change = ActivityChange(changes[name][i].mean(), p, p_beyond if rank else 0.0, still)
                said[name, rank][verdict(accuracy, change, row["detectable"])] += 1
    for (name, rank), counts in said.items():
        print(f"{name}, {'the rule' if rank else 'without the rank'}: {dict(counts.most_common())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
