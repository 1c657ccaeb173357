"""What came of choices of neurons, beside random sets like them: figures by set, from the tables that `attribute` fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..data.roles import ROLES
from ..records import Neuron
from ..runs.session import Session
from ..stats import LEAST_MARGIN, LEVEL, mcnemar_exact, paired_bootstrap, permutation_p, wilson

PATHS = ("total", "direct", "indirect")
RESTS, CALCULATES, NOT_SHOWN = "results rest on them", "calculates", "not shown"
TOO_FEW = "too few random sets to tell"


@dataclass(frozen=True)
class Trial:
    """Neurons that are zeroed: a choice, a part of it, or a random set like it.

    Attributes:
        control: the number of a random set.
        part: "all" that were chosen; "compared": those of them that share a stratum with others; the "first" ones.
    """

    selection: str
    control: int | None
    neurons: tuple[Neuron, ...]
    part: str = "all"

    @property
    def name(self) -> str:
        """As `completions.neuron_set` and parts of tables have it."""
        part = {"all": "", "compared": ", compared", "first": f", first {len(self.neurons)}"}[self.part]
        return f"{self.selection}{part}" + ("" if self.control is None else f"_random_{self.control}")

    @property
    def about(self) -> dict[str, Any]:
        return {"selection": self.selection, "part": self.part, "neurons": len(self.neurons), "control": self.control}

    @property
    def key(self) -> Key:
        """What tells it from others in the tables."""
        return self.selection, self.part, len(self.neurons), self.control


Key = tuple[str, str, int, int | None]
UNTOUCHED = Trial("none", None, ())


class Scores:
    """The tables' figures by set.

    Args:
        generated: whether the model has written with these very sets zeroed; else what is there may be of others.
    """

    def __init__(self, session: Session, generated: bool) -> None:
        run = session.run
        self.seed = session.config.seed
        self.roles: dict[tuple[Key, str, str], dict[str, tuple[float, float]]] = {}
        for r in run.rows("SELECT * FROM selection_scores ORDER BY ALL"):
            key = _key(r), r["role"], r["path"]
            self.roles.setdefault(key, {})[r["problem_id"]] = r["log_prob"], r["margin"]
        self.hits: dict[Key, list[bool]] = {}
        for r in run.rows("SELECT * FROM selection_sums ORDER BY level, item"):
            self.hits.setdefault(_key(r), []).append(r["hit"])
        self.skills = {_key(r): r for r in run.rows("SELECT * FROM selection_skills")}
        self.solved = {
            r["neuron_set"]: (r["correct"], r["n"])
            for r in run.rows(
                """SELECT neuron_set, count(*) FILTER (correct) AS correct, count(*) AS n FROM completions
                   WHERE family = 'study' OR family = 'selection' AND ? GROUP BY ALL""",
                [generated],
            )
        }

    def changes(self, key: Key, role: str, path: str, measure: str) -> list[float]:
        """Problem by problem, less the untouched model."""
        i = ("log_prob", "margin").index(measure)
        untouched = self.roles.get((UNTOUCHED.key, role, "total"), {})
        return [value[i] - untouched[problem][i] for problem, value in sorted(self.roles.get((key, role, path), {}).items())]

    def of(self, s: Trial) -> dict[str, Any]:
        """A set's own figures."""
        key = s.key
        row: dict[str, Any] = {}
        for path in PATHS:
            row |= _interval(f"result_margin_{path}", self.changes(key, "result", path, "margin"), self.seed)
        for role in ROLES:
            row |= _interval(role, self.changes(key, role, "total", "log_prob"), self.seed)
        row |= self.sums_of(key) | {"sums_p": mcnemar_exact(self.hits[UNTOUCHED.key], self.hits[key])}
        if accuracy := self.accuracy(s.name):
            row |= accuracy
        return row | {k: self.skills[key][k] for k in ("battery", "kl")}

    def sums_of(self, key: Key) -> dict[str, float]:
        """Share of sums right, with Wilson's interval."""
        hits = self.hits[key]
        low, high = wilson(sum(hits), len(hits))
        return {"sums": fmean(hits), "sums_low": low, "sums_high": high}

    def accuracy(self, name: str) -> dict[str, float] | None:
        """Of generation; None where the model did not write."""
        if name not in self.solved:
            return None
        right, n = self.solved[name]
        low, high = wilson(right, n)
        return {"accuracy": right / n, "accuracy_low": low, "accuracy_high": high, "n": n}

    def compared(self, s: Trial, sets: Sequence[Trial]) -> dict[str, Any]:
        """A choice beside random sets like it: means, and its rank among them."""
        controls = [c for c in sets if c.selection == s.selection and c.control is not None] if s.part == "all" else []
        if not controls:
            return {}
        [target] = [c for c in sets if c.selection == s.selection and c.part == "compared"] or [s]
        path = "indirect" if self.changes(s.key, "result", "indirect", "margin") else "total"

        def margins(c: Trial) -> tuple[float, float]:
            """Change of the results' margin, and of it less that elsewhere; in all where paths can't be told apart."""
            margin = fmean(self.changes(c.key, "result", path, "margin"))
            return margin, margin - fmean(self.changes(c.key, "elsewhere", path, "margin"))

        def sums(c: Trial) -> float:
            return fmean(self.hits[c.key])

        own, others = margins(target), [margins(c) for c in controls]
        p = [permutation_p(own[i], [o[i] for o in others]) for i in range(2)]
        p_sums = permutation_p(sums(target), [sums(c) for c in controls])
        written = [a["accuracy"] for c in controls if (a := self.accuracy(c.name))]
        mean = fmean(o[0] for o in others)
        if 1 / (len(controls) + 1) > LEVEL:
            verdict = TOO_FEW
        elif max(p) > LEVEL or mean - own[0] < LEAST_MARGIN:
            verdict = NOT_SHOWN
        else:
            verdict = CALCULATES if p_sums <= LEVEL else RESTS
        return {
            "compared": len(target.neurons),
            "controls": len(controls),
            "compared_margin": own[0],
            "controls_margin": mean,
            "p_value": p[0],
            "p_beyond": p[1],
            "compared_sums": sums(target),
            "controls_sums": fmean(map(sums, controls)),
            "p_sums": p_sums,
            "controls_battery": fmean(self.skills[c.key]["battery"] for c in controls),
            "controls_accuracy": fmean(written) if written else None,
            "verdict": verdict,
        }


def _key(row: Mapping[str, Any]) -> Key:
    return row["selection"], row["part"], row["neurons"], row["control"]


def _interval(name: str, changes: Sequence[float], seed: int) -> dict[str, float | None]:
    ends = paired_bootstrap(changes, seed) if changes else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
