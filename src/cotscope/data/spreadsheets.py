"""Cells of files that are made for spreadsheets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


_NUMBER = re.compile(r"[-+]?\d[\d,.]*(?:[eE][-+]?\d+)?")


def harmless_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose texts are harmless."""
    return {key: harmless(value) if isinstance(value, str) else value for key, value in row.items()}


def harmless(cell: str) -> str:
    """A text with an apostrophe before it where a spreadsheet would take it for a formula; a number is none."""
    return "'" + cell if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell
