"""Conversion of a source's items to the table of items, with checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mllm_msr.data.text_cleaning import clean_items
from mllm_msr.errors import DataError
from mllm_msr.tables import ITEMS, conform


def to_items(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Convert a table with item ids, titles and texts to `tables.ITEMS`.

    Titles and texts are cleaned, missing ones become empty, and identical rows are merged.

    Args:
        table: Columns `item_id`, `title`, `text` and `image`.
        path: File that the rows come from, for error messages.

    Raises:
        DataError: Two different rows have the same id.
    """
    items = clean_items(conform(table, ITEMS, name=path.name))
    distinct = items.unique(maintain_order=True)
    repeated = distinct.filter(pl.col("item_id").is_duplicated())
    if repeated.height:
        first = repeated.filter(item_id=repeated["item_id"][0])
        names = ", ".join(name for name in first.columns if first[name].n_unique() > 1)
        raise DataError(
            f"{repeated.height} rows of {path.name} share an item id but differ. The first such "
            f"id is {first['item_id'][0]!r}, whose rows differ in {names}. Keep one row per item."
        )
    return distinct


def join_sentences(parts: Sequence[str]) -> str:
    """Join the non-empty parts, adding a period to each that has no closing punctuation."""
    sentences = (part if part.endswith((".", "!", "?")) else f"{part}." for part in parts if part)
    return " ".join(sentences)
