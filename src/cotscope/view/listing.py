"""A table in memory that DuckDB filters, sorts and pages, so that a million rows are as quick as a thousand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

PAGE = 50


class Listing:
    """Rows that are made once; a page of them is one query of the table `listed`.

    Args:
        rows: with a column `searched`, which is not shown.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._connection = duckdb.connect(config={"threads": 2, "enable_external_access": False})
        self._connection.register("made", rows)
        self._connection.execute("CREATE TABLE listed AS SELECT * FROM made")
        self._connection.unregister("made")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """To ask with: a connection is for one thread."""
        return self._connection.cursor()

    def listed(self, conditions: Mapping[str, list[Any]], by: Sequence[str], descending: bool, page: int) -> dict[str, Any]:
        """A page of the rows that meet all conditions, and how many there are.

        Args:
            conditions: SQL → its parameters.
            by: columns to sort by, the first one as `descending` says; rows without a value of it are last.
        """
        first, *rest = columns = list(dict.fromkeys(by))
        order = [f"{first} {'DESC' if descending else 'ASC'} NULLS LAST", *rest]
        # Rows are tested once, and sorted by the columns that it takes; whole ones are read of the page alone.
        rows = self.cursor().sql(
            f"""WITH met AS MATERIALIZED (
                    SELECT rowid AS place, {", ".join(columns)} FROM listed WHERE {" AND ".join(conditions) or "true"}
                ), paged AS MATERIALIZED (SELECT place FROM met ORDER BY {", ".join(order)} LIMIT {PAGE} OFFSET ?)
                SELECT listed.* EXCLUDE (searched), total, place
                FROM (SELECT count(*) AS total FROM met) LEFT JOIN paged ON true LEFT JOIN listed ON listed.rowid = place
                ORDER BY {", ".join(f"listed.{column}" for column in order)}""",
            params=[*(value for found in conditions.values() for value in found), page * PAGE],
        ).to_arrow_table().to_pylist()  # fmt: skip
        [total] = {row.pop("total") for row in rows}
        return {"total": total, "page": page, "size": PAGE, "rows": [row for row in rows if row.pop("place") is not None]}
