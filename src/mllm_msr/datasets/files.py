"""The user's own data: a table of interactions, a table of items, a folder of images.

Tables may be CSV, TSV, Parquet or JSON lines; the columns' names are settings. Images are
named in the items' table, or lie in the image folder as `<item id>.jpg` (or .png, .webp, ...).
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.datasets._interactions import TimeUnit, to_interactions
from mllm_msr.datasets._readers import (
    images_by_stem,
    need_columns,
    need_file,
    need_folder,
    reading,
    scan_table,
    to_items,
)
from mllm_msr.interfaces import Dataset, RawData

_KINDS = ("csv", "tsv", "parquet", "jsonl")
_TITLE, _TEXT, _IMAGE = "title", "text", "image"


@final
class Files(Dataset):
    """Interactions and items of any origin.

    Args:
        path: Folder that holds the files.
        interactions_file: Name of the interactions' file; `interactions.*` by default.
        items_file: Name of the items' file; `items.*` by default.
        images_folder: Name of the folder with the images; it may be missing.
        user_column: User id, among the interactions.
        item_column: Item id, among the interactions and the items.
        time_column: Time, among the interactions; `None` takes the order of the rows.
        time_unit: What its numbers count: "s", "ms", "us", "ns"; "iso" for dates as text;
            "rank" where they only order. Date columns of Parquet need none.
        rating_column: Rating, among the interactions, where low ones are to be left out.
        min_rating: Ratings below this are left out.
        title_column: Title, among the items. The default one may be missing, and so below.
        text_column: Longer text, among the items.
        image_column: Image's path, among the items, relative to `images_folder` or `path`.
        item_type: What an item is called in prompts: "video", "product", "film", "item".
    """

    def __init__(
        self,
        *,
        path: Path,
        interactions_file: str | None = None,
        items_file: str | None = None,
        images_folder: str = "images",
        user_column: str = "user_id",
        item_column: str = "item_id",
        time_column: str | None = "timestamp",
        time_unit: TimeUnit = "s",
        rating_column: str | None = None,
        min_rating: float = 0.0,
        title_column: str = _TITLE,
        text_column: str = _TEXT,
        image_column: str = _IMAGE,
        item_type: str = "item",
    ) -> None:
        self.path = Path(path)
        self.interactions_file = interactions_file
        self.items_file = items_file
        self.images_folder = images_folder
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column
        self.time_unit = time_unit
        self.rating_column = rating_column
        self.min_rating = min_rating
        self.title_column = title_column
        self.text_column = text_column
        self.image_column = image_column
        self.item_type = item_type

    def load(self) -> RawData:
        """Read the source.

        Raises:
            SettingsError: The time unit is unknown.
            DataError: A file is missing, unreadable or not in the expected form.
        """
        folder = need_folder(self.path)
        path = _file(folder, self.interactions_file, "interactions")
        ranked = self.time_column is None or self.time_unit == "rank"
        return RawData(
            interactions=to_interactions(
                scan_table(path),
                path,
                user=self.user_column,
                item=self.item_column,
                time=self.time_column,
                unit=self.time_unit,
                rating=self.rating_column,
                min_rating=self.min_rating,
            ),
            items=self._items(folder),
            item_type=self.item_type,
            ordered_by="rank" if ranked else "time",
        )

    def _items(self, folder: Path) -> pl.DataFrame:
        """The items, with the paths of their images."""
        path = _file(folder, self.items_file, "items")
        table = scan_table(path)
        defaults = {self.title_column: _TITLE, self.text_column: _TEXT, self.image_column: _IMAGE}
        required = [name for name, default in defaults.items() if name != default]
        present = need_columns(table, [self.item_column, *required], path)

        def column(name: str) -> pl.Expr:
            value = pl.col(name) if name in present else pl.lit(None)
            return value.cast(pl.String)

        with reading(path):
            items = table.select(
                item_id=column(self.item_column),
                title=column(self.title_column),
                text=column(self.text_column),
                image=column(self.image_column),
            ).collect()
        in_folder = images_by_stem(folder / self.images_folder)
        bases = (folder / self.images_folder, folder)
        images = {
            item_id: _image(named, bases) if named else in_folder.get(item_id)
            for item_id, named in items.select("item_id", "image").rows()
        }
        found = {item_id: image for item_id, image in images.items() if image is not None}
        return to_items(items.drop("image"), path, images=found)


def _file(folder: Path, name: str | None, default: str) -> Path:
    """The named file, or the one that bears the default name."""
    patterns = [name] if name else [f"{default}.{kind}" for kind in _KINDS]
    return need_file(folder, *patterns, what=default)


def _image(named: str, bases: tuple[Path, ...]) -> str:
    """The named image's absolute path; one that does not exist stays named, to be reported."""
    found = (base / named for base in bases if (base / named).is_file())
    return str(next(found, bases[0] / named))
