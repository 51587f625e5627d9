"""MicroLens (Ni et al. 2023): short videos with titles and covers, in both published formats.

- `*_pairs.csv`: one interaction per line, with its time. Preferred if both formats are present.
- `*_pairs.tsv`: one user per line, with item ids in chronological order.
- `*_titles.csv`: the titles of the items.
- `*_covers/`, `covers/` or `images/` with `<item>.jpg`; optional.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.data.image_files import find_images
from mllm_msr.data.reading.reader import read_table
from mllm_msr.data.reading.records import Column, OnBadRows, ReadOptions, TableRead
from mllm_msr.datasets._interactions import InteractionFormat, Interactions, read_interactions
from mllm_msr.datasets._items import to_items
from mllm_msr.datasets._source_files import require_file, require_folder
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

logger = logging.getLogger(__name__)

_HEADERS = ({"item", "title"}, {"item_id", "title"}, {"video", "title"})


@final
class MicroLens(Dataset):
    """The MicroLens dataset in a folder.

    Args:
        path: Folder with `*_pairs.tsv` or `*_pairs.csv`, `*_titles.csv`, and optionally covers.
        on_bad_rows: "error" stops if a row cannot be used; "drop" leaves such rows
            out and counts them.
    """

    def __init__(self, *, path: Path, on_bad_rows: OnBadRows = "error") -> None:
        self.path = Path(path)
        self.options = ReadOptions(on_bad_rows=on_bad_rows)

    def load(self) -> RawData:
        """Read the files.

        Raises:
            DataError: A file is missing, unreadable or not in the expected format.
        """
        folder = require_folder(self.path)
        pairs = require_file(folder, "*_pairs.csv", "*_pairs.tsv", content="interactions")
        titles = require_file(folder, "*_titles.csv", content="titles")
        logger.info("reading %s and %s", pairs.name, titles.name)
        interactions = _read_pairs(pairs, self.options)
        table = _read_titles(titles, self.options)
        items = table.frame.with_columns(text=pl.lit("")).collect()
        cover_folders = [path for path in sorted(folder.glob("*_covers")) if path.is_dir()]
        for cover_folder in (*cover_folders, folder / "covers", folder / "images"):
            covers = find_images(items["item_id"].to_list(), cover_folder)
            if covers.source.n_files:
                break
        return RawData(
            interactions=interactions.frame,
            items=to_items(items.with_columns(covers.columns), titles),
            item_type="video",
            ordered_by="rank" if pairs.suffix == ".tsv" else "time",
            sources=(interactions.source, table.description),
            images=covers.source,
        )

    def read_interactions(self, file: Path) -> pl.LazyFrame:
        """Read new interactions from a file like `*_pairs.csv` or `*_pairs.tsv`.

        Raises:
            DataError: The file is missing, unreadable or not in the expected format.
        """
        frame = _read_pairs(file, self.options.without_settings()).frame
        if file.suffix == ".tsv":
            # A position in a line is only comparable within one file.
            return frame.with_columns(timestamp=pl.lit(None, dtype=pl.Int64))
        return frame


def _read_pairs(path: Path, options: ReadOptions) -> Interactions:
    if path.suffix == ".tsv":
        return _read_sequences(path, options)
    return read_interactions(path, InteractionFormat(user="user", item="item"), options=options)


def _read_sequences(path: Path, options: ReadOptions) -> Interactions:
    """Read one user per line; the rank of an interaction is its position in the line."""
    table = read_table(
        path,
        {"user": Column("user", "id"), "items": Column("items", "id")},
        options=dataclasses.replace(options, separator="\t"),
        content="interactions",
        names=["user", "items"],
        quoted=False,
    )
    # Drop a header, which would otherwise become a user.
    lines = table.frame.filter(~pl.col("user").str.to_lowercase().is_in(["user", "user_id"]))
    repeated = lines.filter(pl.col("user").is_duplicated()).select("user").head(1).collect()["user"]
    if len(repeated):
        raise DataError(
            f"{path.name} has several lines for user {repeated[0]!r}. Join the lines of each user, "
            "or use the file *_pairs.csv with timestamps."
        )
    items = pl.col("items").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    exploded = (
        lines.with_columns(items)
        .with_columns(rank=pl.int_ranges(pl.col("items").list.len()))
        .explode("items", "rank")
    )
    form = InteractionFormat(user="user", item="items", time="rank", unit="rank")
    interactions = read_interactions(exploded, form)
    return dataclasses.replace(interactions, source=table.description)


def _read_titles(path: Path, options: ReadOptions) -> TableRead:
    """Read item id and title of the titles file, with or without its header."""
    names = ["item_id", "title"]
    table = read_table(
        path,
        {"item_id": Column("item_id", "id"), "title": Column("title", "text")},
        options=dataclasses.replace(options, separator=","),
        content="items",
        names=names,
    )
    first = table.frame.head(1).collect()
    if {str(value).strip().lower() for row in first.rows() for value in row} in _HEADERS:
        description = dataclasses.replace(
            table.description, n_rows=(table.description.n_rows or 1) - 1
        )
        return dataclasses.replace(table, frame=table.frame.slice(1), description=description)
    return table
