"""Texts that a spreadsheet would take for formulas."""

from __future__ import annotations

import pytest

from cotscope.data.spreadsheets import harmless


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|x", "@SUM(1)", "\t=1", "＝1", "-", "-5x", "+1-1"])
def test_a_formula_has_an_apostrophe(cell: str) -> None:
    assert harmless(cell) == "'" + cell


@pytest.mark.parametrize("cell", ["", "5", "-5", "+5", "-1,200.5", "-1e-05", "a=b", "'=1"])
def test_numbers_and_plain_texts_stay(cell: str) -> None:
    assert harmless(cell) == cell
