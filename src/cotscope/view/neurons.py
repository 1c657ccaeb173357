"""The table of neurons, and the card of one.

What the page needs of each pole is joined once per state of the run, into a table in memory; a page of it is one query.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import duckdb
from pydantic import BaseModel, Field

from ..errors import UserError
from ..records import Pole
from ..runs.folder import Run
from .listing import Listing

_SHOWN = 8  # promoted tokens in a row of the table
_BETWEEN = "chr(31)"  # between the tokens of the column that is searched

# Neurons that `attribute` has looked at and that were not active in discovery have no pole: their sign is 0.
_ROWS = f"""
WITH candidate AS (
    SELECT layer, index, sign, list(DISTINCT concept ORDER BY concept) AS concepts FROM candidates GROUP BY ALL
), word AS (
    SELECT layer, index, sign, list(DISTINCT concept ORDER BY concept) FILTER (accepted) AS accepted,
           CASE WHEN bool_or(accepted) THEN 'accepted' WHEN bool_and(status = 'failed') THEN 'failed' ELSE 'rejected' END
           AS word
    FROM annotations GROUP BY ALL
), pole AS (
    SELECT layer, index, sign, steps, problems, mean_update_size, mean_coefficient, promoted[1:{_SHOWN}] AS promoted,
           {_BETWEEN} || replace(lower(array_to_string(promoted, {_BETWEEN})), {_BETWEEN} || ' ', {_BETWEEN}) || {_BETWEEN}
           AS searched
    FROM poles
)
SELECT coalesce(p.layer, a.layer) AS layer, coalesce(p.index, a.index) AS index, coalesce(p.sign, 0)::TINYINT AS sign,
       p.promoted, p.searched, coalesce(w.accepted, c.concepts) AS concepts,
       coalesce(w.word, CASE WHEN c.concepts IS NULL THEN 'none' ELSE 'candidate' END) AS verdict,
       p.steps, p.problems, p.mean_update_size, p.mean_coefficient, a.result_margin AS attribution, k.kl
FROM pole p
FULL JOIN attributions a ON p.layer = a.layer AND p.index = a.index
LEFT JOIN keystones k ON k.layer = coalesce(p.layer, a.layer) AND k.index = coalesce(p.index, a.index)
LEFT JOIN candidate c ON c.layer = p.layer AND c.index = p.index AND c.sign = p.sign
LEFT JOIN word w ON w.layer = p.layer AND w.index = p.index AND w.sign = p.sign
"""
Sort = Literal["layer", "steps", "problems", "mean_update_size", "mean_coefficient", "attribution", "kl", "verdict"]
Verdict = Literal["accepted", "rejected", "failed", "candidate", "none"]


class Wanted(BaseModel):
    """Which neurons are asked for, as the query of a link holds it; empty: all.

    Attributes:
        token: part of a token that they promote; between quotation marks a whole one. Case and blanks don't matter.
            Two numbers (`12:345`) are a layer and a neuron.
        least: active steps at least.
        attribution: at least this size.
    """

    token: str = Field(default="", max_length=200)
    concept: str = ""
    verdict: Verdict | None = None
    sign: int | None = Field(default=None, ge=-1, le=1)
    first_layer: int | None = None
    last_layer: int | None = None
    least: int = 0
    attribution: float = 0.0
    sort: Sort = "steps"
    descending: bool = True
    page: int = Field(default=0, ge=0, lt=10**7)

    def conditions(self) -> dict[str, list[Any]]:
        """SQL → its parameters."""
        found: dict[str, list[Any]] = {}
        if token := self.token.strip().lower():
            layer, _, index = token.replace(".", ":").partition(":")
            if layer.isdecimal() and index.isdecimal() and len(token) < 16:
                found["layer = ? AND index = ?"] = [int(layer), int(index)]
            elif len(token) > 2 and token[0] == token[-1] == '"':
                found[f"contains(searched, {_BETWEEN} || ? || {_BETWEEN})"] = [token[1:-1].strip()]
            else:
                found["contains(searched, ?)"] = [token]
        for sql, value in (
            ("list_contains(concepts, ?)", self.concept), ("verdict = ?", self.verdict), ("sign = ?", self.sign),
            ("layer >= ?", self.first_layer), ("layer <= ?", self.last_layer), ("steps >= ?", self.least or None),
            ("abs(attribution) >= ?", self.attribution or None),
        ):  # fmt: skip
            if value not in (None, ""):
                found[sql] = [value]
        return found


class Neurons(Listing):
    """The neurons of one run as it was when this was made."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.query(_ROWS))
        self.about = self._about()

    def page(self, wanted: Wanted) -> dict[str, Any]:
        """A page of the neurons asked for, and how many there are."""
        return self.listed(wanted.conditions(), (wanted.sort, "layer", "index", "sign"), wanted.descending, wanted.page)

    def marked(self) -> dict[Pole, list[str]]:
        """The accepted poles, with their concepts."""
        rows = self.cursor().execute(
            "SELECT layer, index, sign, concepts FROM listed WHERE verdict = 'accepted'"
        ).fetchall()  # fmt: skip
        return {Pole(*row[:3]): row[3] for row in rows}

    def promoted(self, poles: list[Pole]) -> dict[Pole, list[str]]:
        """The first tokens that each of some poles promotes; those that were not active in discovery have none."""
        rows = self.cursor().execute(
            """SELECT layer, index, sign, promoted FROM listed
               JOIN (SELECT unnest(?::SMALLINT[]) AS layer, unnest(?::INTEGER[]) AS index, unnest(?::TINYINT[]) AS sign) asked
               USING (layer, index, sign)""",
            [[p.layer for p in poles], [p.index for p in poles], [p.sign for p in poles]],
        ).fetchall()  # fmt: skip
        return {Pole(*row[:3]): row[3] or [] for row in rows}

    def _about(self) -> dict[str, Any]:
        """What filters can be set to."""
        cursor = self.cursor()
        [layers] = cursor.execute("SELECT min(layer), max(layer), count(*), count(attribution) FROM listed").fetchall()
        concepts = cursor.execute(
            "SELECT concept, count(*) FROM (SELECT unnest(concepts) AS concept FROM listed) GROUP BY ALL ORDER BY concept"
        ).fetchall()
        accepted = cursor.execute(
            "SELECT DISTINCT unnest(concepts) AS concept FROM listed WHERE verdict = 'accepted' ORDER BY concept"
        ).fetchall()
        verdicts = cursor.execute("SELECT verdict, count(*) FROM listed GROUP BY ALL").fetchall()
        return {
            "layers": layers[:2], "neurons": layers[2], "attributed": bool(layers[3]), "concepts": dict(concepts),
            "accepted": [concept for (concept,) in accepted],
            "verdicts": {v: n for v in get_args(Verdict) for w, n in verdicts if v == w},
        }  # fmt: skip


_CARD: dict[str, str] = {
    "pole": "SELECT * FROM poles WHERE {pole}",
    "candidates": "SELECT concept, matches, evidence FROM candidates WHERE {pole} ORDER BY matches DESC",
    "annotations": "SELECT concept, accepted, annotator, status, confidence, description, evidence FROM annotations "
    "WHERE {pole} ORDER BY concept",
    "names": "SELECT name, concept, description, annotator, status FROM names WHERE {pole}",
    "contexts": "SELECT problem_id, before, token, after, coefficient FROM contexts WHERE {pole} AND token IS NOT NULL "
    "ORDER BY abs(coefficient) DESC LIMIT 12",
    "places": """SELECT role, sum(steps)::INT AS steps, sum(update_size) / sum(steps) AS update_size
                 FROM activity WHERE {pole} AND family IN ('discovery', 'study') GROUP BY role ORDER BY steps DESC""",
    "prompts": """SELECT prompt, sum(steps)::INT AS steps FROM activity
                  WHERE {pole} AND family = 'study' GROUP BY prompt ORDER BY steps DESC LIMIT 20""",
    "attribution": "SELECT * FROM attributions WHERE {neuron}",
    "checked": "SELECT drawn, predicted, zeroed FROM attribution_checks WHERE {neuron}",
    "keystone": "SELECT kl, perplexity_ratio, keystone FROM keystones WHERE {neuron}",
    "sets": "SELECT DISTINCT neuron_set, kind FROM sets WHERE {neuron} ORDER BY ALL",
    "selections": "SELECT selection, rank FROM selections WHERE {neuron} ORDER BY ALL",
}


def card(run: Run, pole: Pole) -> dict[str, Any]:
    """All that a run knows of a neuron at one sign of its coefficient (0: of none that was active).

    A part whose table can't be read is a text that says so.
    """
    found: dict[str, Any] = {"layer": pole.layer, "index": pole.index, "sign": pole.sign}
    for name, sql in _CARD.items():
        of_pole = "{pole}" in sql
        where = {"pole": "layer = ? AND index = ? AND sign = ?", "neuron": "layer = ? AND index = ?"}
        try:
            found[name] = run.rows(sql.format(**where), [*pole] if of_pole else [pole.layer, pole.index])
        except duckdb.Error as error:
            found[name] = f"can't be read: {type(error).__name__}"
    return found


def pole_of(manifest: Mapping[str, Any], layer: int, index: int, sign: int) -> Pole:
    """A pole, or (sign 0) a neuron, of a run's model. Raises: UserError if the model has none such."""
    layers, width = manifest["model"]["layers"], manifest["model"]["neurons_per_layer"]
    if not (0 <= layer < layers and 0 <= index < width and sign in (-1, 0, 1)):
        raise UserError(
            "the model has no such neuron",
            expected=f"layers below {layers}, neurons below {width}, signs of -1, 0 or 1",
            got=f"layer {layer}, neuron {index}, sign {sign}",
        )
    return Pole(layer, index, sign)
