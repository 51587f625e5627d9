"""MicroLens: short videos with titles and covers (Ni et al. 2023), in both published forms.

`*_pairs.tsv` holds one user per line, item ids in chronological order; `*_pairs.csv` holds one
interaction per line with its time and is preferred where both are there. `*_titles.csv` names
the items; a folder `*_covers`, `covers` or `images` with `<item>.jpg` may be missing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.datasets._interactions import to_interactions
from mllm_msr.datasets._readers import (
    check_text,
    images_by_stem,
    need_file,
    need_folder,
    reading,
    scan_table,
    to_items,
)
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

logger = logging.getLogger(__name__)

_HEADERS = ({"item", "title"}, {"item_id", "title"}, {"video", "title"})


@final
class MicroLens(Dataset):
    """The MicroLens data set in a folder.

    Args:
        path: Folder with `*_pairs.tsv` or `*_pairs.csv`, `*_titles.csv`, and covers if any.
    """

    def __init__(self, *, path: Path) -> None:
        self.path = Path(path)

    def load(self) -> RawData:
        """Read the source.

        Raises:
            DataError: A file is missing, unreadable or not in the expected form.
        """
        folder = need_folder(self.path)
        pairs = need_file(folder, "*_pairs.csv", "*_pairs.tsv", what="interactions")
        titles = need_file(folder, "*_titles.csv", what="titles")
        sequences = pairs.suffix == ".tsv"
        logger.info("reading %s and %s", pairs.name, titles.name)
        return RawData(
            interactions=_sequences(pairs) if sequences else _timed(pairs),
            items=_items(titles, _covers(folder)),
            item_type="video",
            ordered_by="rank" if sequences else "time",
        )


def _timed(path: Path) -> pl.LazyFrame:
    """Interactions of the CSV form; its times are milliseconds."""
    return to_interactions(
        scan_table(path), path, user="user", item="item", time="timestamp", unit="ms"
    )


def _sequences(path: Path) -> pl.LazyFrame:
    """Interactions of the sequence form; the time is the place in the user's line."""
    check_text(path, quoted=False)
    lines = pl.scan_csv(
        path,
        separator="\t",
        has_header=False,
        infer_schema=False,
        quote_char=None,
    )
    with reading(path):
        columns = lines.collect_schema().names()
    if len(columns) != 2:
        raise DataError(
            needed=f"two columns in {path.name}, user and items, with a tab between them",
            received=f"{len(columns)}",
            remedy="check that the file is the sequence form of the data set",
        )
    lines = lines.rename(dict(zip(columns, ("user", "items"), strict=True)))
    # A header would otherwise become a user.
    lines = lines.filter(~pl.col("user").str.to_lowercase().is_in(["user", "user_id"]))
    split = lines.with_columns(
        pl.col("items").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    )
    with reading(path):
        doubled = (
            lines.filter(pl.col("user").is_duplicated()).select("user").head(1).collect()["user"]
        )
    if len(doubled):
        raise DataError(
            needed=f"one line per user in {path.name}",
            received=f"several for user {doubled[0]!r}",
            remedy="join these lines, or use the form with timestamps",
        )
    exploded = split.with_columns(rank=pl.int_ranges(pl.col("items").list.len())).explode(
        "items", "rank"
    )
    return to_interactions(exploded, path, user="user", item="items", time="rank", unit="rank")


def _items(path: Path, covers: dict[str, str]) -> pl.DataFrame:
    """Items of the titles file, with or without its header."""
    check_text(path)
    with reading(path):
        table = pl.read_csv(path, has_header=False, infer_schema=False)
    if table.width != 2:
        raise DataError(
            needed=f"two columns in {path.name}, item and title",
            received=f"{table.width} ({', '.join(map(str, table.row(0)))})",
            remedy="put titles that hold commas in double quotes",
        )
    first = {str(value).strip().lower() for value in table.row(0)}
    if first in _HEADERS:
        table = table.slice(1)
    named = table.rename(dict(zip(table.columns, ("item_id", "title"), strict=True)))
    return to_items(named.with_columns(text=pl.lit("")), path, images=covers)


def _covers(folder: Path) -> dict[str, str]:
    """Cover paths by item id; empty where there are none."""
    named = [path for path in sorted(folder.glob("*_covers")) if path.is_dir()]
    for candidate in (*named, folder / "covers", folder / "images"):
        if found := images_by_stem(candidate):
            return found
    return {}
