"""Tables: data frames are brought to their schema or rejected."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr import tables
from mllm_msr.errors import DataError, UsageError


def test_conform_selects_orders_and_casts() -> None:
    frame = pl.DataFrame(
        {"extra": [1], "position": [0], "timestamp": [5], "item_id": [7], "user_id": ["u"]}
    )
    result = tables.conform(frame, tables.INTERACTIONS, name="interactions")
    assert dict(result.schema) == dict(tables.INTERACTIONS)
    assert result.row(0) == ("u", "7", 5, 0)


def test_conform_names_the_missing_columns() -> None:
    message = (
        r"'mine' lacks columns: item_id, timestamp, position\. It has these columns: user_id\."
    )
    with pytest.raises(DataError, match=message):
        tables.conform(pl.DataFrame({"user_id": ["u"]}), tables.INTERACTIONS, name="mine")


def test_conform_rejects_values_of_another_type() -> None:
    frame = pl.DataFrame(
        {"user_id": ["u"], "item_id": ["i"], "timestamp": ["noon"], "position": [0]}
    )
    with pytest.raises(DataError, match=r"'mine' has the wrong type: .*noon.*timestamp Int64"):
        tables.conform(frame, tables.INTERACTIONS, name="mine")


@pytest.mark.parametrize("name", tables.SCHEMAS)
def test_empty_frames_conform(name: str) -> None:
    schema = tables.SCHEMAS[name]
    assert tables.conform(tables.empty(schema), schema, name=name).height == 0


@pytest.mark.parametrize("convert", [lambda f: f, pl.DataFrame.lazy, pl.DataFrame.to_pandas])
def test_tables_of_polars_and_pandas_are_frames(convert) -> None:
    frame = pl.DataFrame({"item_id": ["a", "b"], "n": [1, 2]})
    assert tables.as_frame(convert(frame), name="x").equals(frame)
    conformed = tables.conform(convert(frame), {"n": pl.String()}, name="x")
    assert conformed["n"].to_list() == ["1", "2"]


@pytest.mark.parametrize("table", [[("a", 1)], {"a": [1]}, "items.csv", None])
def test_other_objects_are_no_tables(table: object) -> None:
    with pytest.raises(UsageError, match=r"The table 'items' is of type \w+\. Pass a frame"):
        tables.as_frame(table, name="items")


def test_items_may_have_a_column_of_further_images() -> None:
    frame = pl.DataFrame({name: ["a"] for name in tables.ITEMS})
    assert tables.conform(frame, tables.ITEMS, name="items").columns == [*tables.ITEMS]
    several = frame.with_columns(more_images=pl.Series([["b", "c"]]), other=1)
    found = tables.conform(several, tables.ITEMS, name="items")
    assert dict(found.schema) == {**tables.ITEMS, **tables.MORE_IMAGES}
    assert found.to_pandas()["more_images"].tolist()[0].tolist() == ["b", "c"]
    with pytest.raises(DataError, match="more_images List"):
        tables.conform(frame.with_columns(more_images=1.5), tables.ITEMS, name="items")


def test_a_history_has_its_positions_as_timestamps() -> None:
    frame = tables.history_frame("u", ["b", "a"])
    assert frame.equals(tables.conform(frame, tables.INTERACTIONS, name="history"))
    assert frame.rows() == [("u", "b", 0, 0), ("u", "a", 1, 1)]
    assert tables.history_frame("u", []).equals(tables.empty(tables.INTERACTIONS))
