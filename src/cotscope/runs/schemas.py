"""What a table of a run folder is: a name, columns, and what a row is."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
WHOLE, LONG, REAL, YES = pa.int32(), pa.int64(), pa.float64(), pa.bool_()
NEURON = {"layer": pa.int16(), "index": pa.int32()}
POLE = NEURON | {"sign": pa.int8()}


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        about: what a row is.
        part: what has a file of its own; empty: there is one file.
    """

    name: str
    schema: pa.Schema
    about: str
    part: str = ""

    def __str__(self) -> str:
        return self.name


TABLES: dict[str, Table] = {}


def table(name: str, about: str, columns: dict[str, pa.DataType], part: str = "") -> Table:
    TABLES[name] = Table(name, pa.schema(list(columns.items())), about, part)
    return TABLES[name]


def interval(name: str) -> dict[str, pa.DataType]:
    return dict.fromkeys((name, f"{name}_low", f"{name}_high"), REAL)
