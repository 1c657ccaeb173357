"""A table in memory that DuckDB filters, sorts and pages, so that a million rows are as quick as a thousand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

PAGE = 50


class Listing:
    """Rows that are made once; a page of them is one query of the table `listed`."""

    def __init__(self, rows: pa.Table) -> None:
        self._connection = duckdb.connect(config={"threads": 2, "enable_external_access": False})
        self._connection.register("made", rows)
        self._connection.execute("CREATE TABLE listed AS SELECT * FROM made")
        self._connection.unregister("made")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """To ask with: a connection is for one thread."""
        return self._connection.cursor()

    def listed(self, conditions: Mapping[str, list[Any]], order: str, page: int, hidden: str = "searched") -> dict[str, Any]:
        """A page of the rows that meet all conditions, and how many there are.

        Args:
            conditions: SQL → its parameters.
            order: SQL.
            hidden: a column that is searched and not shown.
        """
        where = " AND ".join(conditions) or "true"
        values = [value for found in conditions.values() for value in found]
        cursor = self.cursor()
        [[total]] = cursor.execute(f"SELECT count(*) FROM listed WHERE {where}", values).fetchall()
        rows = cursor.sql(
            f"SELECT * EXCLUDE ({hidden}) FROM listed WHERE {where} ORDER BY {order} LIMIT {PAGE} OFFSET ?",
            params=[*values, page * PAGE],
        )
        return {"total": total, "page": page, "size": PAGE, "rows": rows.to_arrow_table().to_pylist()}
