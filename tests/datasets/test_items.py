"""Items of datasets: normalization, conflicts and missing ids."""

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.datasets._items import join_sentences, to_items
from mllm_msr.errors import DataError


def _items(*rows: tuple[str | None, str | None]) -> pl.DataFrame:
    schema = {"item_id": pl.String, "title": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        text=pl.lit(None, pl.String), image=pl.lit(None, pl.String)
    )


def test_items_are_normalized() -> None:
    table = _items(("b", "  two\n\twords "), ("a", None), ("b", "  two\n\twords "))
    items = to_items(table.with_columns(image=pl.lit("/i.jpg")), Path("t.csv"))
    assert items.rows() == [("b", "two words", "", "/i.jpg"), ("a", "", "", "/i.jpg")]


def test_titles_and_texts_are_cleaned() -> None:
    table = _items(("a", "Tom &amp;amp; <b>Jerry</b>")).with_columns(
        text=pl.lit("x\u200by &lt;br/>")
    )
    assert to_items(table, Path("t.csv")).rows() == [("a", "Tom & Jerry", "xy", None)]


def test_conflicting_items_are_an_error() -> None:
    with pytest.raises(
        DataError,
        match=r"2 rows of t\.csv share an item id but differ.* is 'a', whose rows differ in t",
    ):
        to_items(_items(("a", "one"), ("a", "other")), Path("t.csv"))


def test_join_sentences_adds_missing_periods() -> None:
    assert join_sentences(["Soft toy", "", "Is it? Yes!", "Red."]) == "Soft toy. Is it? Yes! Red."
