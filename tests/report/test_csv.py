"""Tables for spreadsheets: no text becomes a formula, numbers stay numbers."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core.errors import OutputError
from unconcept.report.csv import escape_cell, write_csv


def test_results_hold_no_formulas(tmp_path) -> None:
    path = tmp_path / "r.csv"
    harmful = ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"]
    write_csv(path, ["name", "=rate"], [[text, -0.5] for text in harmful] + [["plain, text", 3], [None, float("-inf")]])
    with path.open(encoding="utf-8", newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["name", "'=rate"]
    assert [row[0] for row in found[:8]] == [f"'{text}" for text in harmful]
    assert {row[1] for row in found[:8]} == {"-0.5"}
    assert found[8:] == [["plain, text", "3"], ["", "'-inf"]]


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_stay_numbers(number) -> None:
    assert type(number)(escape_cell(number)) == number
    assert escape_cell(str(number)) == str(number)


@given(st.text())
def test_no_text_starts_a_formula(text) -> None:
    shown = escape_cell(text)
    assert shown in (text, f"'{text}")
    if shown[:1] and shown[0] in "=@\t\r\n":
        pytest.fail(shown)
    if shown[:1] in ("+", "-"):
        float(shown)


def test_a_table_that_cannot_be_written(tmp_path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_csv(tmp_path / "no" / "r.csv", ["a"], [])
