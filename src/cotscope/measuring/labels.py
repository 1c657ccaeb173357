"""Reasoning poles and sets of permuted ones: what each active pole did, and what sets with permuted labels do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..runs.session import Session
from ..stats.labels import permuted_sums, strata

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
_NUMBERED = "SELECT layer, index, sign, row_number() OVER (ORDER BY layer, index, sign) - 1 AS place FROM poles"


@dataclass(frozen=True)
class Labels:
    """The poles that were active in discovery, and which of them stand for a concept.

    Attributes:
        layer, steps, update_size: of each pole; steps and mean update size in discovery.
        reasoning: those with the label.
        found_first: those that discovery under the study's first prompt finds.
    """

    session: Session
    layer: NDArray[np.int_]
    steps: Floats
    update_size: Floats
    reasoning: Flags
    found_first: Flags

    @classmethod
    def read(cls, session: Session) -> Labels:
        """From the tables `poles` and `annotations`."""
        table = session.run.query(
            """SELECT layer::BIGINT AS layer, steps::DOUBLE AS steps, mean_update_size, coalesce(accepted, false) AS accepted,
                      list_contains(prompts, ?) AS found_first
               FROM poles LEFT JOIN (SELECT DISTINCT layer, index, sign, true AS accepted FROM annotations WHERE accepted)
                    USING (layer, index, sign) ORDER BY layer, index, sign""",
            [session.prompt.name],
        )
        return cls(session, *(table[name].to_numpy() for name in table.column_names))

    @cached_property
    def alike(self) -> NDArray[np.intp]:
        """The stratum of each pole: layer, steps, update size."""
        return strata(self.layer, self.steps, self.update_size)

    def permuted_activity(self, family: str, forced: bool = False, first: bool = False) -> dict[str, Floats]:
        """Prompt → activity of every permuted set under it, counted as the reasoning poles' is (`measuring/activity.py`).

        Args:
            forced: teacher-forced activity in place of generated.
            first: labels are permuted among the poles that discovery under the first prompt finds.
        """
        prompts, values = self._activity(family, forced)
        here = self.found_first if first else np.ones_like(self.found_first)
        sums = permuted_sums(values[here], self.reasoning[here], self.alike[here], self.session.config.seed)
        return dict(zip(prompts, sums.T))

    def _activity(self, family: str, forced: bool) -> tuple[list[str], Floats]:
        """The family's prompts, and each pole's activity under them (poles, prompts): per token, mean over problems."""
        texts = "SELECT prompt, problem_id, tokens FROM completions WHERE family = ?"
        if forced:
            texts = """SELECT prompt, problem_id, tokens
                       FROM forced_problems JOIN (SELECT problem_id, sum(tokens) AS tokens FROM solutions GROUP BY ALL)
                            USING (problem_id) WHERE family = ?"""
        table = self.session.run.query(
            f"""WITH numbered AS ({_NUMBERED}), texts AS ({texts}),
                     counted AS (SELECT prompt, count(*) AS n FROM texts GROUP BY ALL)
                SELECT prompt, place, sum(steps / tokens) / any_value(n) AS value
                FROM {"forced" if forced else "activity"} JOIN numbered USING (layer, index, sign)
                     JOIN texts USING (prompt, problem_id) JOIN counted USING (prompt)
                WHERE family = ? GROUP BY prompt, place""",
            [family, family],
        )
        names, all_of_them = table["prompt"].to_pylist(), f"SELECT DISTINCT prompt FROM ({texts}) ORDER BY prompt"
        column = {row["prompt"]: i for i, row in enumerate(self.session.run.rows(all_of_them, [family]))}
        values = np.zeros((len(self.layer), len(column)))
        values[table["place"].to_numpy(), [column[name] for name in names]] = table["value"].to_numpy()
        return list(column), values

    def in_halves(self, half: list[str], others: list[str]) -> tuple[Flags, Flags]:
        """Whether each pole was active in a right completion of either half of the discovery problems."""
        table = self.session.run.query(
            f"""WITH numbered AS ({_NUMBERED}),
                     halves AS (SELECT unnest(?) AS problem_id, true AS half UNION ALL SELECT unnest(?), false)
                SELECT place, bool_or(half) AS half, bool_or(NOT half) AS others
                FROM activity JOIN numbered USING (layer, index, sign)
                     JOIN completions USING (condition, family, prompt, problem_id) JOIN halves USING (problem_id)
                WHERE split = 'discovery' AND correct GROUP BY place""",
            [half, others],
        )
        found = np.zeros((2, len(self.layer)), bool)
        found[:, table["place"].to_numpy()] = table["half"].to_numpy(), table["others"].to_numpy()
        return found[0], found[1]
