"""Bad rows are errors or are counted; parsed rows become a data frame."""

from __future__ import annotations

import logging

import pytest

from mllm_msr.data.reading.records import LINE
from mllm_msr.data.reading.rows import BadRows, frame_of_rows, plain_name, shown
from mllm_msr.errors import DataError


def test_a_bad_row_is_an_error_with_its_fix_and_the_setting() -> None:
    rows = BadRows("log.csv", "error")
    with pytest.raises(
        DataError,
        match=r"^Line 3 is odd\. Even it out\. Or correct the data, or set data\.on_bad_rows",
    ):
        rows.add("odd", "Line 3 is odd.", fix="Even it out.")


def test_settings_are_named_only_where_there_are_some() -> None:
    with pytest.raises(DataError, match=r"^Line 3 is odd\. Correct the data\.$"):
        BadRows("log.csv", "error", has_settings=False).add("odd", "Line 3 is odd.")


def test_dropped_rows_are_counted_by_reason_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = BadRows("log.csv", "drop")
    rows.add("odd", "Line 3 is odd.")
    rows.add("odd", "Line 5 is odd.", n_rows=2)
    rows.add("late", "Line 9 is late.")
    assert rows.dropped == {"odd": 3, "late": 1}
    with caplog.at_level(logging.WARNING):
        rows.report()
    assert caplog.messages == [
        "log.csv: dropped 3 rows (odd). Line 3 is odd.",
        "log.csv: dropped 1 row (late). Line 9 is late.",
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
