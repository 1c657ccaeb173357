"""The table of predictions: which answers were right, and how likely each way of telling took them to be.

Answers are joined with their problems once per state of the run; a page is one query, as of the neurons.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ..measuring.choosing import REASONING
from ..runs.folder import Run
from .listing import Listing
from .solutions import PROBLEM_TEXTS

_ROWS = f"""
SELECT p.data, p.predictor, p.problem_id, p.template, p.correct, p.probability, q.question, q.answer, c.flexible AS said,
       c.problem_id IS NOT NULL AS written, lower(concat_ws(' ', p.problem_id, q.question)) AS searched
FROM predictions p
LEFT JOIN completions c ON c.condition = 'prediction.' || p.data AND c.problem_id = p.problem_id
LEFT JOIN {PROBLEM_TEXTS} q ON q.family = 'prediction' AND q.split = p.data AND q.problem_id = p.problem_id
"""


class Wanted(BaseModel):
    """Which predictions are asked for, as the query of a link holds it; empty: all of the first data set.

    Attributes:
        predictor: the way of telling.
        correct: right answers only, or wrong ones.
        text: part of the question, or of the problem's name. Case does not matter.
        least, most: probabilities between these.
    """

    data: str = ""
    predictor: str = REASONING
    correct: bool | None = None
    text: str = Field(default="", max_length=200)
    least: float = Field(default=0.0, ge=0, le=1)
    most: float = Field(default=1.0, ge=0, le=1)
    descending: bool = True
    page: int = Field(default=0, ge=0, lt=10**7)

    def conditions(self, data: str) -> dict[str, list[Any]]:
        """SQL → its parameters."""
        found: dict[str, list[Any]] = {"data = ?": [data], "predictor = ?": [self.predictor]}
        if self.correct is not None:
            found["correct = ?"] = [self.correct]
        if text := self.text.strip().lower():
            found["contains(searched, ?)"] = [text]
        if (self.least, self.most) != (0.0, 1.0):
            found["probability BETWEEN ? AND ?"] = [self.least, self.most]
        return found


class Predictions(Listing):
    """The predictions of one run as it was when this was made."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.query(_ROWS))
        self.ways = run.rows("SELECT * FROM predictors")
        self.coverage = run.rows("SELECT * FROM coverage")
        self.data = list(dict.fromkeys(row["data"] for row in self.ways))

    def page(self, wanted: Wanted) -> dict[str, Any]:
        """A page of the predictions asked for, how well each way of telling does on their data set, and all data sets."""
        data = wanted.data or next(iter(self.data), "")
        ways = sorted((w for w in self.ways if w["data"] == data), key=lambda w: -(w["auroc"] or 0))
        coverage = [row for row in self.coverage if row["data"] == data]
        found = self.listed(wanted.conditions(data), ("probability", "problem_id"), wanted.descending, wanted.page)
        return found | {"data": data, "every": self.data, "ways": ways, "coverage": coverage}
