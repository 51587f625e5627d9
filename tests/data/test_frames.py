"""Frames of callers: kinds of frames, types of their columns, and errors."""

from datetime import date

import polars as pl
import pytest

from mllm_msr.data._frames import collect_interactions
from mllm_msr.errors import DataError, UsageError

Row = tuple[str, str, int]


def raw(rows: list[Row]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


FRAMES = {
    "lazy": lambda frame: frame.lazy(),
    "eager": lambda frame: frame,
    "pandas": lambda frame: frame.to_pandas(),
    "arrow": lambda frame: frame.to_arrow(),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("has_dates", [False, True])
def test_all_kinds_of_frames_give_the_same_table(kind: str, has_dates: bool) -> None:
    if kind == "pandas":
        pytest.importorskip("pandas")
    frame = raw([("001", "a", 1), ("é", "b", 2), ("001", "b", 3)]).collect()
    expected = collect_interactions(frame.lazy())
    if has_dates:
        frame = frame.with_columns(pl.col("timestamp").cast(pl.Datetime("ms")))
    found = collect_interactions(FRAMES[kind](frame))
    assert found.equals(expected)


def test_dates_within_one_millisecond_keep_their_order() -> None:
    frame = pl.DataFrame(
        {"user_id": ["u", "u"], "item_id": ["later", "earlier"], "timestamp": [2_500, 2_100]}
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us")))
    found = collect_interactions(frame)
    assert found["item_id"].to_list() == ["earlier", "later"]
    assert found["timestamp"].to_list() == [2, 2]


@pytest.mark.parametrize("wrong", [{"user_id": ["u"]}, [("u", "i", 1)], None, "interactions.csv"])
def test_something_that_is_not_a_frame_is_an_error(wrong: object) -> None:
    with pytest.raises(UsageError, match=rf"of type {type(wrong).__name__}\. Pass a Polars or pan"):
        collect_interactions(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("times", [[1.5, 2.0], [float("nan"), 1.0], ["1.5", "2"]])
def test_fractions_of_timestamps_are_an_error(times: list[object]) -> None:
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times})
    with pytest.raises(DataError, match=r"no valid timestamp, which is a whole number or a date"):
        collect_interactions(frame)


def test_missing_ids_are_an_error_with_their_number() -> None:
    frame = raw([("u", "x", 1), ("u", "y", 2)]).with_columns(
        user_id=pl.when(pl.col("item_id") == "y").then("user_id")
    )
    with pytest.raises(
        DataError, match=r"1 of 2 interactions have no valid user_id, .* first is None in row 1\."
    ):
        collect_interactions(frame)


def test_a_timestamp_that_is_not_an_integer_is_an_error() -> None:
    frame = raw([("u", "x", 1)]).with_columns(timestamp=pl.lit(float("nan")))
    with pytest.raises(DataError, match=r"no valid timestamp, which is a whole number or a date"):
        collect_interactions(frame)


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(DataError, match="item_id"):
        collect_interactions(raw([("u", "x", 1)]).drop("item_id"))


def test_ids_are_text_whatever_their_type() -> None:
    frame = pl.DataFrame({"user_id": [3, 4], "item_id": [101.0, 102.0], "timestamp": [1.0, 2.0]})
    found = collect_interactions(frame)
    assert found.select(pl.col("user_id", "item_id").cast(pl.String)).rows() == [
        ("3", "101"),
        ("4", "102"),
    ]
    padded = frame.with_columns(user_id=pl.Series([" 003", "003 "]))
    assert collect_interactions(padded)["user_id"].cast(pl.String).to_list() == ["003", "003"]


@pytest.mark.parametrize("ids", [[1.5, 2.0], ["", "a"], [None, "a"]])
def test_values_that_are_not_ids_are_an_error(ids: list[object]) -> None:
    frame = pl.DataFrame({"user_id": ids, "item_id": ["a", "b"], "timestamp": [1, 2]})
    with pytest.raises(DataError, match=rf"no valid user_id, .* first is {ids[0]!r} in row 1\."):
        collect_interactions(frame)


def test_objects_of_pandas_are_ids_and_dates() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "user_id": pandas.Series([1, "a", 2.0], dtype=object),
            "item_id": pandas.Series(["x", None, "y"], dtype=object),
            "timestamp": pandas.Series([date(2024, 3, 1), date(2024, 2, 1), date(2024, 1, 1)]),
        }
    )
    found = collect_interactions(frame.dropna())
    assert found["user_id"].cast(pl.String).to_list() == ["2", "1"]
    with pytest.raises(DataError, match=r"1 of 3 interactions have no valid item_id"):
        collect_interactions(frame)


def test_frames_that_cannot_be_converted_are_an_error() -> None:
    pandas = pytest.importorskip("pandas")
    frame = raw([("u", "x", 1)]).collect().to_pandas()
    with pytest.raises(DataError, match="has 2 columns with the name 'item_id'"):
        collect_interactions(pandas.concat([frame, frame[["item_id"]]], axis=1))
    with pytest.raises(DataError, match="no column user_id; their columns are who, item_id"):
        collect_interactions(frame.rename(columns={"user_id": "who"}))
    sparse = frame.assign(user_id=pandas.arrays.SparseArray([1]))
    with pytest.raises(DataError, match=r"user_id of the data frame has the type Sparse\[int64"):
        collect_interactions(sparse)
    with pytest.raises(DataError, match=r"Cannot read the columns .*No such file"):
        collect_interactions(pl.scan_parquet("nowhere.parquet"))


def test_timestamps_that_their_type_has_rounded_are_an_error() -> None:
    frame = raw([("u", "x", 1_700_000_000_000)]).with_columns(pl.col("timestamp").cast(pl.Float32))
    with pytest.raises(DataError, match="have no valid timestamp"):
        collect_interactions(frame)
