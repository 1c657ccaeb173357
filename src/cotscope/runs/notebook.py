"""What a notebook shows of a run and of an edit, and a run's rows as a DataFrame. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

    from .progress import State


class InNotebook:
    """What `Run` has for notebooks."""

    folder: Path
    manifest: dict[str, Any]
    if TYPE_CHECKING:  # what `Run` has

        def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table: ...

        def states(self) -> dict[str, State]: ...

    def frame(self, what: str, parameters: Sequence[Any] = ()) -> pandas.DataFrame:
        """A table by its name, or what an SQL query gives, as a DataFrame. Raises: UserError without pandas."""
        sql = what if any(c.isspace() for c in what) else f'SELECT * FROM "{what}"'
        return dataframe(self.query(sql, parameters))

    def _repr_html_(self) -> str:
        manifest, states = self.manifest, self.states()
        rows = [
            (name, state.status + (f" ({state.why})" if state.why else ""), (record["finding"] or "") if state.current else "")
            for name, record in manifest["stages"].items()
            for state in [states[name]]
        ]
        title = f"{manifest['model']['name']} on {manifest['data']['source']}"
        return html_table(title, ("stage", "state", "finding"), rows, f"run folder {self.folder}")


def dataframe(table: pa.Table) -> pandas.DataFrame:
    """A table as a DataFrame. Raises: UserError without pandas."""
    try:
        return table.to_pandas()
    except ImportError as error:
        raise UserError("a DataFrame needs pandas", remedy="pip install pandas") from error


# Neurons that `attribute` has looked at and that were not active in discovery stand in `neurons` alone.
_POLES = """
WITH word AS (
    SELECT layer, index, sign, list(DISTINCT concept ORDER BY concept) FILTER (accepted) AS concepts,
           bool_or(accepted) AS accepted
    FROM annotations GROUP BY ALL
), candidate AS (
    SELECT layer, index, sign, list(DISTINCT concept ORDER BY concept) AS concepts FROM candidates GROUP BY ALL
), pole AS (
    SELECT p.layer, p.index, p.sign, coalesce(w.concepts, c.concepts) AS concepts, w.accepted, p.steps, p.problems,
           p.mean_update_size, p.mean_coefficient, p.promoted, p.suppressed
    FROM poles p
    LEFT JOIN word w ON w.layer = p.layer AND w.index = p.index AND w.sign = p.sign
    LEFT JOIN candidate c ON c.layer = p.layer AND c.index = p.index AND c.sign = p.sign
)
"""
_MEASURED = """
    SELECT coalesce(o.layer, a.layer) AS layer, coalesce(o.index, a.index) AS index, o.* EXCLUDE (layer, index),
           a.result_margin AS attribution, z.zeroed, k.kl
    FROM {of} o {join} JOIN attributions a ON a.layer = o.layer AND a.index = o.index
    LEFT JOIN (SELECT layer, index, any_value(zeroed) AS zeroed FROM attribution_checks GROUP BY ALL) z
           ON z.layer = coalesce(o.layer, a.layer) AND z.index = coalesce(o.index, a.index)
    LEFT JOIN keystones k ON k.layer = coalesce(o.layer, a.layer) AND k.index = coalesce(o.index, a.index)
    ORDER BY ALL
"""
_OF_BOTH = """
, neuron AS (
    SELECT layer, index, arg_max(sign, steps) AS sign,
           list_sort(list_distinct(flatten(
               coalesce(list(concepts) FILTER (accepted), list(concepts) FILTER (concepts IS NOT NULL))))) AS concepts,
           bool_or(accepted) AS accepted, sum(steps)::INTEGER AS steps, arg_max(promoted, steps) AS promoted,
           arg_max(suppressed, steps) AS suppressed
    FROM pole GROUP BY layer, index
)
"""


def poles(run: InNotebook) -> pandas.DataFrame:
    """The poles that were active in discovery.

    Columns: the tokens that each promotes and suppresses; the concepts that it was accepted for (of others: whose words it
    promotes); `accepted` (missing: nobody was asked); how often it was active; and of its neuron, where it was measured, what
    zeroing it does: `attribution` (results' logit margin, nats, to first order), `zeroed` (the same, measured), `kl` (nats, on
    general text).

    Raises: UserError without pandas.
    """
    return run.frame(_POLES + _MEASURED.format(of="pole", join="LEFT"))


def neurons(run: InNotebook) -> pandas.DataFrame:
    """The same of neurons, also of those that were not active but have an attribution; the tokens are those of the pole that
    was active most, whose `sign` stands beside. Raises: UserError without pandas."""
    return run.frame(_POLES + _OF_BOTH + _MEASURED.format(of="neuron", join="FULL"))


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """A small table: a title, its columns, its rows, a note under it."""
    head = "".join(f"<th>{shown(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in row)}</tr>" for row in rows)
    under = f"<div>{shown(note)}</div>" if note else ""
    return f"<div><b>{shown(title)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{under}</div>"


def shown(value: Any) -> str:
    """A value as HTML: escaped, and what can't be seen, or would rearrange the line, as an escape."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)))
