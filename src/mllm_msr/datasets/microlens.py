"""MicroLens (Ni et al. 2023): short videos with titles and covers, in both published formats.

- `*_pairs.csv`: one interaction per line, with its time. Preferred if both formats are present.
- `*_pairs.tsv`: one user per line, with item ids in chronological order.
- `*_titles.csv`: the titles of the items.
- `*_covers/`, `covers/` or `images/` with `<item>.jpg`; optional.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.data.image_files import images_by_stem
from mllm_msr.datasets._interactions import to_interactions
from mllm_msr.datasets._items import to_items
from mllm_msr.datasets._readers import (
    check_text,
    require_file,
    require_folder,
    scan_table,
    wrap_table_errors,
)
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

logger = logging.getLogger(__name__)

_HEADERS = ({"item", "title"}, {"item_id", "title"}, {"video", "title"})


@final
class MicroLens(Dataset):
    """The MicroLens dataset in a folder.

    Args:
        path: Folder with `*_pairs.tsv` or `*_pairs.csv`, `*_titles.csv`, and optionally covers.
    """

    def __init__(self, *, path: Path) -> None:
        self.path = Path(path)

    def load(self) -> RawData:
        """Read the files.

        Raises:
            DataError: A file is missing, unreadable or not in the expected format.
        """
        folder = require_folder(self.path)
        pairs = require_file(folder, "*_pairs.csv", "*_pairs.tsv", content="interactions")
        titles = require_file(folder, "*_titles.csv", content="titles")
        logger.info("reading %s and %s", pairs.name, titles.name)
        if pairs.suffix == ".tsv":
            interactions = _read_sequences(pairs)
        else:
            interactions = to_interactions(
                scan_table(pairs), pairs, user="user", item="item", time="timestamp", unit="ms"
            )
        cover_folders = [path for path in sorted(folder.glob("*_covers")) if path.is_dir()]
        for cover_folder in (*cover_folders, folder / "covers", folder / "images"):
            if covers := images_by_stem(cover_folder):
                break
        return RawData(
            interactions=interactions,
            items=_read_titles(titles, covers),
            item_type="video",
            ordered_by="rank" if pairs.suffix == ".tsv" else "time",
        )


def _read_sequences(path: Path) -> pl.LazyFrame:
    """Read one user per line; the rank of an interaction is its position in the line."""
    check_text(path, quoted=False)
    lines = pl.scan_csv(
        path,
        separator="\t",
        has_header=False,
        infer_schema=False,
        quote_char=None,
    )
    with wrap_table_errors(path):
        columns = lines.collect_schema().names()
    if len(columns) != 2:
        raise DataError(
            f"{path.name} has {len(columns)} columns instead of two, user and items, separated by "
            "a tab. Check that this is the right file."
        )
    lines = lines.rename(dict(zip(columns, ("user", "items"), strict=True)))
    # Drop a header, which would otherwise become a user.
    lines = lines.filter(~pl.col("user").str.to_lowercase().is_in(["user", "user_id"]))
    split = lines.with_columns(
        pl.col("items").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    )
    with wrap_table_errors(path):
        repeated = (
            lines.filter(pl.col("user").is_duplicated()).select("user").head(1).collect()["user"]
        )
    if len(repeated):
        raise DataError(
            f"{path.name} has several lines for user {repeated[0]!r}. Join the lines of each user, "
            "or use the file *_pairs.csv with timestamps."
        )
    exploded = split.with_columns(rank=pl.int_ranges(pl.col("items").list.len())).explode(
        "items", "rank"
    )
    return to_interactions(exploded, path, user="user", item="items", time="rank", unit="rank")


def _read_titles(path: Path, covers: dict[str, str]) -> pl.DataFrame:
    """Read the items of the titles file, with or without its header."""
    check_text(path)
    with wrap_table_errors(path):
        table = pl.read_csv(path, has_header=False, infer_schema=False)
    if table.width != 2:
        raise DataError(
            f"{path.name} has {table.width} columns ({', '.join(map(str, table.row(0)))}) instead "
            "of two, item and title. Put titles that contain commas in double quotes."
        )
    if {str(value).strip().lower() for value in table.row(0)} in _HEADERS:
        table = table.slice(1)
    items = table.rename(dict(zip(table.columns, ("item_id", "title"), strict=True)))
    return to_items(items.with_columns(text=pl.lit("")), path, images=covers)
