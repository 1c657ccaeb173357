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
        found = self.query(sql, parameters)
        try:
            return found.to_pandas()
        except ImportError as error:
            raise UserError("a DataFrame needs pandas", remedy="pip install pandas") from error

    def _repr_html_(self) -> str:
        manifest, states = self.manifest, self.states()
        rows = [
            (name, state.status + (f" ({state.why})" if state.why else ""), (record["finding"] or "") if state.current else "")
            for name, record in manifest["stages"].items()
            for state in [states[name]]
        ]
        title = f"{manifest['model']['name']} on {manifest['data']['source']}"
        return html_table(title, ("stage", "state", "finding"), rows, f"run folder {self.folder}")


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """A small table: a title, its columns, its rows, a note under it."""
    head = "".join(f"<th>{shown(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in row)}</tr>" for row in rows)
    under = f"<div>{shown(note)}</div>" if note else ""
    return f"<div><b>{shown(title)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{under}</div>"


def shown(value: Any) -> str:
    """A value as HTML: escaped, and what can't be seen, or would rearrange the line, as an escape."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)))
