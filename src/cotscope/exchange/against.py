"""Two runs held against each other, table by table: which rows only one has, and how far figures of the same row lie apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa

from ..errors import RunError
from ..report.reading import Reading
from ..runs.folder import Run
from ..runs.tables import TABLES


@dataclass(frozen=True)
class Difference:
    """How a table of one run differs from that of another.

    Rows are the same if they have the same in all columns but those of real numbers; of several such, the one with the smallest
    numbers belongs to the one with the smallest.

    Attributes:
        rows, other_rows: of the first run, of the other; None: it has no such table, or it is stale.
        only, other_only: how many rows the other has not, and the first.
        apart: column of real numbers → the largest difference of what both have; infinite where only one has a number.
    """

    table: str
    rows: int | None
    other_rows: int | None
    only: int = 0
    other_only: int = 0
    apart: dict[str, float] | None = None

    def same(self, tolerance: float = 0.0) -> bool:
        """Whether both hold the same, numbers to within `tolerance`."""
        whole = self.rows == self.other_rows and not self.only and not self.other_only
        return whole and all(value <= tolerance for value in (self.apart or {}).values())

    def __str__(self) -> str:
        if self.rows is None or self.other_rows is None:
            return f"{self.table}: only {'the other' if self.rows is None else 'the first'} has it"
        said = [f"{self.rows:,} rows" if self.rows == self.other_rows else f"{self.rows:,} and {self.other_rows:,} rows"]
        said += (
            [f"{self.only:,} only in the first, {self.other_only:,} only in the other"] if self.only or self.other_only else []
        )
        apart = {name: value for name, value in (self.apart or {}).items() if value}
        said += [f"{name} apart by up to {value:.3g}" for name, value in apart.items()]
        return f"{self.table}: " + ", ".join(said if len(said) > 1 else [*said, "the same"])


def differences(run: Run, other: Run) -> list[Difference]:
    """What of two runs is current, table by table; tables that neither has are left out.

    Raises: RunError, also if that are all.
    """
    sides = Reading(run), Reading(other)
    found = []
    for name in TABLES:
        first, second = (side.table(name) if side.has(name) else None for side in sides)
        if first is not None and second is not None:
            found.append(_difference(name, first, second))
        elif first is not None or second is not None:
            rows, other_rows = (None if t is None else t.num_rows for t in (first, second))
            found.append(Difference(name, rows, other_rows))
    if not found:
        raise RunError("neither run has a table that is current", remedy="`cotscope status RUN` says what is stale or missing.")
    return found


def as_rows(found: list[Difference], tolerance: float) -> list[dict[str, Any]]:
    """The same for other programs."""
    return [asdict(each) | {"same": each.same(tolerance)} for each in found]


def _difference(name: str, first: pa.Table, second: pa.Table) -> Difference:
    schema = TABLES[name].schema
    real = [f.name for f in schema if pa.types.is_floating(f.type)]
    reals = [f.name for f in schema if pa.types.is_list(f.type) and pa.types.is_floating(f.type.value_type)]
    key = ", ".join(f'"{n}" := "{n}"' for n in schema.names if n not in {*real, *reals}) or "nothing := 0"
    order = ", ".join(f'"{n}"' for n in (*real, *reals)) or "1"
    side = f"SELECT *, struct_pack({key}) AS key, row_number() OVER (PARTITION BY struct_pack({key}) ORDER BY {order}) AS nth"
    apart = [_apart(f'a."{n}"', f'b."{n}"') for n in real]
    apart += [f'list_max([{_apart("p[1]", "p[2]")} for p in list_zip(a."{n}", b."{n}")])' for n in reals]
    columns = "".join(f", coalesce(max({sql}) FILTER (a.nth IS NOT NULL AND b.nth IS NOT NULL), 0)" for sql in apart)
    with duckdb.connect() as connection:
        connection.register("one", first).register("other", second)
        [counts] = connection.execute(
            f"SELECT count(*) FILTER (b.nth IS NULL), count(*) FILTER (a.nth IS NULL){columns} "
            f"FROM ({side} FROM one) a FULL JOIN ({side} FROM other) b ON a.key = b.key AND a.nth = b.nth"
        ).fetchall()
    only, other_only, *largest = counts
    return Difference(name, first.num_rows, second.num_rows, only, other_only, dict(zip((*real, *reals), largest, strict=True)))


def _apart(a: str, b: str) -> str:
    """SQL for how far two numbers lie apart; NaN and NULL are the same as themselves, and infinitely far from a number."""
    lacking = f"{a} IS NULL OR {b} IS NULL OR isnan({a}) OR isnan({b})"
    return f"CASE WHEN {a} IS NOT DISTINCT FROM {b} THEN 0 WHEN {lacking} THEN 'Infinity'::DOUBLE ELSE abs({a} - {b}) END"
