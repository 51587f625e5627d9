"""Reading of interactions: ids, times of wrong units, exact order, ratings, and bad rows."""

from __future__ import annotations

import logging
import re
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.datasets._interactions import InteractionFormat, Interactions, read_interactions
from mllm_msr.errors import DataError, SettingsError

DROP = ReadOptions(on_bad_rows="drop")
Rows = list[tuple[object, object, object]]


def read(
    folder: Path, *rows: str, options: ReadOptions | None = None, **settings: object
) -> Interactions:
    """Read the rows of a CSV file with the columns u, i, t and r."""
    file = folder / "r.csv"
    file.write_text("\n".join(["u,i,t,r", *rows]) + "\n", encoding="utf-8")
    values = {"user": "u", "item": "i", "time": "t", "unit": "s", "has_settings": True}
    form = InteractionFormat(**(values | settings))  # type: ignore[arg-type]
    return read_interactions(file, form, options=options)


def rows(interactions: Interactions) -> Rows:
    return interactions.frame.collect().rows()


def test_ids_are_text_and_times_are_milliseconds(tmp_path: Path) -> None:
    found = read(tmp_path, "003,1e5,1700001105,5", "004,07,1700001106.5,5")
    assert rows(found) == [("003", "1e5", 1700001105000), ("004", "07", 1700001106500)]
    assert found.source.time_unit == "s"
    assert found.source.columns == {"user_id": "u", "item_id": "i", "timestamp": "t"}


def test_without_a_time_the_row_order_is_used(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "1,8,x,", "1,7,,", time=None)) == [("1", "8", 0), ("1", "7", 1)]


def test_dates_of_parquet_files_need_no_unit(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    for value in (datetime(2024, 3, 1, 12), date(2024, 3, 1)):
        pl.DataFrame({"u": [1], "i": [7.0], "t": [value]}).write_parquet(file)
        found = read_interactions(file, InteractionFormat("u", "i", "t", "s"))
        assert rows(found)[0][:2] == ("1", "7")
        assert rows(found)[0][2] in {1709294400000, 1709251200000}
        assert found.source.time_unit == "date column"


def test_dates_out_of_range_and_other_types_are_not_blamed_on_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    for value in (datetime(9999, 12, 31), timedelta(1), [1709294400]):
        pl.DataFrame({"u": [1], "i": [7], "t": [value]}).write_parquet(file)
        with pytest.raises(
            DataError, match=r"not a date between 1970 and 2200\. Check that data\.time_col"
        ):
            read_interactions(file, InteractionFormat("u", "i", "t", "s", has_settings=True))


def test_low_ratings_are_removed_and_counted(tmp_path: Path) -> None:
    lines = [f"1,{item},170000000{rating},{rating}" for item, rating in ("a3", "b5", "c2")]
    found = read(tmp_path, *lines, rating="r", min_rating=3)
    assert [row[1] for row in rows(found)] == ["a", "b"]
    assert found.source.dropped == {"rating below data.min_rating": 1}


@pytest.mark.parametrize(
    ("unit", "earlier", "later"),
    [
        ("rank", "9007199254740992", "9007199254740993"),
        ("ns", "1700000000000000001", "1700000000000000002"),
        ("us", "1700000000000001", "1700000000000002"),
        ("s", "1700000000.0001", "1700000000.0002"),
        ("iso", "2024-03-01 12:00:00.0001", "2024-03-01T12:00:00.0002Z"),
    ],
)
def test_the_order_within_a_millisecond_is_kept(
    tmp_path: Path, unit: str, earlier: str, later: str
) -> None:
    found = read(tmp_path, f"u,second,{later},", f"u,first,{earlier},", unit=unit)
    frame = found.frame.collect().sort("timestamp", maintain_order=True)
    assert frame["item_id"].to_list() == ["first", "second"]


def test_rows_of_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"u,{item},1700000000.000{digit}," for item, digit in ("b5", "a5", "d1", "c5")]
    found = read(tmp_path, *lines)
    assert [row[1] for row in rows(found)] == ["d", "b", "a", "c"]


@pytest.mark.parametrize(
    ("unit", "value", "fix"),
    [
        ("s", "1700001105000", "data.time_unit=ms"),
        ("s", "1700001105000000", "data.time_unit=us"),
        ("s", "20240301120000", "data.time_format='%Y%m%d%H%M%S'"),
        ("s", "2024-03-01 12:00:00", "data.time_unit=iso"),
        ("s", "03/04/2024", "data.time_format='%d/%m/%Y' or data.time_format='%m/%d/%Y'"),
        ("ms", "1700001105000000", "data.time_unit=us"),
        ("us", "1700001105000000000", "data.time_unit=ns"),
        ("iso", "03/04/2024", "data.time_format='%d/%m/%Y' or data.time_format='%m/%d/%Y'"),
        ("iso", "13.04.2024 12:30", "data.time_format='%d.%m.%Y %H:%M'"),
        ("iso", "1700001105", "data.time_unit=s"),
        ("iso", "20240301", "data.time_format='%Y%m%d'"),
        ("excel", "1700001105", "data.time_unit=s"),
    ],
)
def test_a_value_of_another_unit_or_format_names_its_setting(
    tmp_path: Path, unit: str, value: str, fix: str
) -> None:
    with pytest.raises(DataError) as fault:
        read(tmp_path, f"u,v,{value},", f"u,w,{value},", unit=unit)
    assert f"1 of r.csv has '{value}' in the column t, which is not" in str(fault.value)
    assert f". Set {fix}. Or correct the data." in str(fault.value)
    assert str(fault.value).startswith("All 2 rows of r.csv are bad for the same reason.")


def test_a_date_in_an_unknown_format_names_the_setting_with_an_example(tmp_path: Path) -> None:
    for unit in ("s", "iso"):
        with pytest.raises(DataError, match=r"need data\.time_format, for example data\.time_form"):
            read(tmp_path, "u,v,1er mars 2024,", unit=unit)


def test_an_integer_column_with_iso_names_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    pl.DataFrame({"u": [1], "i": [7], "t": [1700001105000]}).write_parquet(file)
    form = InteractionFormat("u", "i", "t", "iso", has_settings=True)
    with pytest.raises(DataError, match=r"has 1700001105000 .*not an ISO 8601.*time_unit=ms\."):
        read_interactions(file, form)


def test_rounded_numbers_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'1.7E\+12' .*A spreadsheet has rounded this number"):
        read(tmp_path, "u,v,1.7E+12,", unit="ms")


@pytest.mark.parametrize(
    ("unit", "values", "fix"),
    [
        ("ms", ["1700001105", "1700001106"], "data.time_unit=s"),
        ("us", ["1700001105000", "1700001106000"], "data.time_unit=ms"),
        ("ns", ["1700001105", "1700001106"], "data.time_unit=s"),
        ("s", ["20240301", "20240229"], "data.time_format='%Y%m%d'"),
        ("s", ["45352.6003", "45353"], "data.time_unit=excel"),
        ("ms", ["45352.6003", "45353"], "data.time_unit=excel"),
        ("ms", ["202403011200", "202403010100"], "data.time_format='%Y%m%d%H%M'"),
    ],
)
def test_times_that_all_lie_in_1970_name_the_setting(
    tmp_path: Path, unit: str, values: list[str], fix: str
) -> None:
    with pytest.raises(DataError) as fault:
        read(tmp_path, *(f"u,v,{value}," for value in values), unit=unit)
    message = str(fault.value)
    assert f"All times in the column t of r.csv, read as data.time_unit={unit}, lie " in message
    assert message.endswith(f"Set {fix}.")


def test_numbers_of_an_integer_column_in_1970_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    pl.DataFrame({"u": [1, 1], "i": [7, 8], "t": [20240301, 20240302]}).write_parquet(file)
    with pytest.raises(DataError, match=r"lie in 1970, for example 20240301\. Set data\.time_form"):
        read_interactions(file, InteractionFormat("u", "i", "t", "s", has_settings=True))


def test_small_numbers_are_accepted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert rows(read(tmp_path, "u,v,1,", "u,w,2,")) == [("u", "v", 1000), ("u", "w", 2000)]
    assert "If the numbers only define an order, set data.time_unit=rank." in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert rows(read(tmp_path, "u,v,1,", "u,w,2,", unit="rank")) == [
            ("u", "v", 1),
            ("u", "w", 2),
        ]
    assert not caplog.text


def test_mixed_units_are_an_error_or_dropped(tmp_path: Path) -> None:
    lines = ["u,v,1700001105000,", "u,w,1700001106,", "u,x,0,"]
    with pytest.raises(
        DataError, match=r"2 of 3 times .* lie in 1970.* latest is 2023-11-14\. The"
    ):
        read(tmp_path, *lines, unit="ms")
    found = read(tmp_path, *lines, unit="ms", options=DROP)
    assert rows(found) == [("u", "v", 1700001105000)]
    assert found.source.dropped == {"time in 1970": 2}


def test_small_numbers_may_span_years(tmp_path: Path) -> None:
    found = read(tmp_path, *(f"u,v{day},{86_400 * day}," for day in (1, 500, 1000)))
    assert [row[2] for row in rows(found)] == [86_400_000, 43_200_000_000, 86_400_000_000]


def test_a_missing_date_written_as_1970_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 times .* lie in 1970, for example 1970-01-01"):
        read(tmp_path, "u,v,1970-01-01,", "u,w,2024-03-01,", unit="iso")


def test_bad_times_are_dropped_only_if_others_remain(tmp_path: Path) -> None:
    found = read(tmp_path, "u,v,1700001105,", "u,w,never,", "u,x,-1,", options=DROP)
    assert rows(found) == [("u", "v", 1700001105000)]
    assert sum(found.source.dropped.values()) == 2
    with pytest.raises(DataError, match=r"Set data\.time_unit=ms\."):
        read(tmp_path, "u,v,1700001105000,", options=DROP)


def test_a_format_replaces_the_unit(tmp_path: Path) -> None:
    found = read(tmp_path, "u,v1,03/04/2024,", "u,v2,01/05/2024,", time_format="%m/%d/%Y")
    ordered = found.frame.sort("timestamp").collect()
    assert ordered["item_id"].to_list() == ["v2", "v1"]
    assert found.source.time_unit == "%m/%d/%Y"
    with pytest.raises(
        DataError, match=r"'13/01/2024' .* not a date in the format '%m/%d/%Y'.*%d/%"
    ):
        read(tmp_path, "u,v1,13/01/2024,", time_format="%m/%d/%Y")


def test_datasets_without_time_settings_do_not_name_them_as_theirs(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Convert the times; dataset=files reads them with data\.time"
    ):
        read(tmp_path, "u,v,1700001105000,", has_settings=False)


def test_unsupported_units_and_formats_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.time_unit is 'sec'\. Choose one of s, ms, us"):
        read(tmp_path, "u,v,1,", unit="sec")
    with pytest.raises(SettingsError, match=r"data\.time_format is 'DD/MM'\. Write a format with"):
        read(tmp_path, "u,v,1,", time_format="DD/MM")


def test_a_table_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r\.csv contains no interactions"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("2024-03-01 12:00:00 CET", "Write offsets, such as +01:00, instead of the names of time"),
        ("2024-03-01T12:00:00[Europe/Berlin]", "Write offsets, such as +01:00"),
        ('"1,700,000,000"', "Write numbers without separators of thousands."),
        ("2024年03月01日 12:00", "Set data.time_format='%Y年%m月%d日 %H:%M'."),
        ("-1700000000", "Check that data.time_column names the right column."),
        ("14 mars 2024", "need data.time_format, for example"),
    ],
)
def test_the_fix_fits_the_kind_of_value(tmp_path: Path, value: str, fix: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, f"u,v,{value},")
    assert fix in str(error.value)


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float16])
def test_times_that_their_type_has_rounded_are_an_error(
    tmp_path: Path, dtype: type[pl.DataType]
) -> None:
    file = tmp_path / "r.parquet"
    pl.DataFrame({"u": [1], "i": [7], "t": pl.Series([45352.5], dtype=dtype)}).write_parquet(file)
    with pytest.raises(DataError, match=rf"column t has the type {dtype.__name__}, which rounds"):
        read_interactions(file, InteractionFormat("u", "i", "t", "excel"))
    found = read_interactions(file, InteractionFormat("u", "i", "t", "rank"))
    assert rows(found)[0][:2] == ("1", "7")


@pytest.mark.parametrize("form", ["%d/%m/%Y %H:%M %Z", "%d/%m/%Y %I:%M", "%Q", "%m/%Y"])
def test_formats_that_cannot_be_read_are_wrong_settings(tmp_path: Path, form: str) -> None:
    with pytest.raises(SettingsError, match=rf"data\.time_format is '{re.escape(form)}'\. "):
        read(tmp_path, "u,v,01/02/2024 10:00 CET,", time_format=form)


def test_times_in_the_future_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "u,v,1700001105,", "u,w,7000000000,")
    assert "column t of r.csv lies in the future: 2191-10-27 12:26 UTC" in caplog.text


def test_dates_that_are_all_old_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Ticks of .NET, which count from the year 1, look like nanoseconds.
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "u,v,638000000000000000,", unit="ns")
    assert "lie before 1991, for example 638000000000000000" in caplog.text


def test_one_column_for_users_and_items_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.item_column are both 'i'\. Change one"):
        read(tmp_path, "u,v,1,", user="i")
