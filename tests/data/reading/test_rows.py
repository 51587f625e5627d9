"""Bad rows are an error or are counted; parsed rows become a data frame."""

from __future__ import annotations

import logging

import pytest

from mllm_msr.data.reading.records import LINE, OnBadRows
from mllm_msr.data.reading.rows import BadRows, frame_of_rows, plain_name, shown
from mllm_msr.errors import DataError


def test_a_bad_row_is_an_error_with_its_fix_and_the_setting() -> None:
    rows = BadRows("log.csv", "error")
    rows.finish(5)
    rows.add("odd", "Line 3 is odd", fix="Even it out.")
    with pytest.raises(
        DataError,
        match=r"^Line 3 is odd\. Even it out\. Or correct the data, or set data\.on_bad_rows",
    ):
        rows.finish(5)


def test_settings_are_named_only_where_there_are_some() -> None:
    rows = BadRows("log.csv", "error", has_settings=False)
    rows.add("odd", "Line 3 is odd")
    rows.add("odd", "Line 4 is odd")
    with pytest.raises(DataError, match=r"^Line 3 is odd \(2 of 7 rows\)\. Correct the data\.$"):
        rows.finish(5)


@pytest.mark.parametrize("on_bad_rows", ["error", "drop"])
def test_dropping_is_not_suggested_if_all_rows_are_bad(on_bad_rows: OnBadRows) -> None:
    rows = BadRows("log.csv", on_bad_rows)
    rows.add("odd", "Line 3 is odd", fix="Even it out.", fix_all="Choose another column.")
    with pytest.raises(
        DataError,
        match=r"^The only row of log\.csv is bad\. Line 3 is odd\. Choose another column\. Or "
        r"correct the data\.$",
    ):
        rows.finish(0)
    rows.add("late", "Line 4 is late", n_rows=2)
    with pytest.raises(
        DataError,
        match=r"^All 3 rows of log\.csv are bad, 2 of them for this reason: Line 4 is late\. "
        r"Correct the data\.$",
    ):
        rows.finish(0)


def test_dropped_rows_are_counted_by_reason_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = BadRows("log.csv", "drop")
    rows.add("odd", "Line 3 is odd")
    rows.add("odd", "Line 5 is odd", n_rows=2)
    rows.add("late", "Line 9 is late")
    assert rows.counts == {"odd": 3, "late": 1}
    with caplog.at_level(logging.WARNING):
        rows.finish(5)
    assert caplog.messages == [
        "log.csv: dropped 3 of 9 rows (odd). Line 3 is odd.",
        "log.csv: dropped 1 of 9 rows (late). Line 9 is late.",
    ]


def test_long_values_are_shortened() -> None:
    assert shown("a") == "'a'"
    assert shown(["a"]) == "['a']"
    assert len(shown("x" * 10**7)) < 100
    assert len(shown(["x"] * 1000)) < 100


def test_rows_become_texts_with_line_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_msr.data.reading.rows._CHUNK", 2)
    rows = [(2, "003", None), (3, "x", "y"), (7, "1e5", "")]
    frame = frame_of_rows(iter(rows), ["a", "b"]).collect()
    assert frame.columns == [LINE, "a", "b"]
    assert frame.rows() == rows
    assert frame_of_rows(iter([]), ["a"]).collect().is_empty()


@pytest.mark.parametrize("name", [" cle\u0301 ", "\ufeffclé", "clé\u200b", "\u00a0clé", "clé"])
def test_names_of_columns_are_compared_without_invisible_differences(name: str) -> None:
    assert plain_name(name) == "clé"
