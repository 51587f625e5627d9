"""Options of the table reader are checked when they are built."""

from __future__ import annotations

import pytest

from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.errors import SettingsError


def test_supported_options_are_accepted() -> None:
    for separator in (",", ";", "\t", "|", ":", " ", "\x01"):
        assert ReadOptions(separator=separator).separator == separator
    assert ReadOptions(encoding="cp1252", on_bad_rows="drop").decimal_comma is None


@pytest.mark.parametrize("separator", ["", ",,", '"', "\n", "é", "\x00"])
def test_other_separators_are_an_error(separator: str) -> None:
    with pytest.raises(SettingsError, match=r"data\.separator is .*\. Use one character"):
        ReadOptions(separator=separator)


@pytest.mark.parametrize("encoding", ["latin-99", "", "base64", "a\x00b"])
def test_unknown_encodings_are_an_error(encoding: str) -> None:
    with pytest.raises(
        SettingsError, match=r"data\.encoding is .* unknown\. Use for example utf-8"
    ):
        ReadOptions(encoding=encoding)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        ReadOptions(separator="", encoding="x", on_bad_rows="skip")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3
    assert "data.on_bad_rows is 'skip'. Choose one of error, drop." in str(caught.value)


def test_options_without_settings_are_otherwise_the_same() -> None:
    options = ReadOptions(separator=";", on_bad_rows="drop")
    assert options.without_settings() == ReadOptions(";", on_bad_rows="drop", has_settings=False)
