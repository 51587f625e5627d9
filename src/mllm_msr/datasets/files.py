"""Dataset from the user's own files: a table of interactions, a table of items, and images.

Tables are CSV, TSV, Parquet or JSON Lines; the column names are settings. The table of items names
an item's image; otherwise it is the file `<item id>.jpg` (or .png, .webp, ...) in the image folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.data.image_files import images_by_stem
from mllm_msr.datasets._interactions import TimeUnit, to_interactions
from mllm_msr.datasets._items import to_items
from mllm_msr.datasets._readers import (
    require_columns,
    require_file,
    require_folder,
    scan_table,
    wrap_table_errors,
)
from mllm_msr.interfaces import Dataset, RawData

_FORMATS = ("csv", "tsv", "parquet", "jsonl")
_TITLE, _TEXT, _IMAGE = "title", "text", "image"


@final
class Files(Dataset):
    """Interactions and items from files in one folder.

    Args:
        path: Folder with the files.
        interactions_file: File name of the interactions, `interactions.*` by default.
        items_file: File name of the items, `items.*` by default.
        images_folder: Name of the image folder, which need not exist.
        user_column: User id, in the interactions.
        item_column: Item id, in the interactions and in the items.
        time_column: Time, in the interactions; `None` uses the row order.
        time_unit: Unit of the time: "s", "ms", "us" or "ns"; "iso" for dates as text; "rank" for
            numbers that only define an order. Ignored for date columns of Parquet.
        rating_column: Rating, in the interactions; `None` if ratings are not used.
        min_rating: Interactions with a lower rating are removed.
        title_column: Title, in the items. Like the next two columns, it may be missing unless its
            setting differs from the default.
        text_column: Longer text, in the items.
        image_column: Path of the image, in the items, relative to `images_folder` or `path`.
        item_type: Word for an item in prompts: "video", "product", "film" or "item".
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
        """Read the files.

        Raises:
            SettingsError: The time unit is unknown.
            DataError: A file is missing, unreadable or not in the expected format.
        """
        folder = require_folder(self.path)
        path = _find_table(folder, self.interactions_file, "interactions")
        is_ranked = self.time_column is None or self.time_unit == "rank"
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
            ordered_by="rank" if is_ranked else "time",
        )

    def _items(self, folder: Path) -> pl.DataFrame:
        """Read the items and find their images."""
        path = _find_table(folder, self.items_file, "items")
        table = scan_table(path)
        defaults = {self.title_column: _TITLE, self.text_column: _TEXT, self.image_column: _IMAGE}
        required = [name for name, default in defaults.items() if name != default]
        present = require_columns(table, [self.item_column, *required], path)

        def column(name: str) -> pl.Expr:
            value = pl.col(name) if name in present else pl.lit(None)
            return value.cast(pl.String)

        with wrap_table_errors(path):
            items = table.select(
                item_id=column(self.item_column),
                title=column(self.title_column),
                text=column(self.text_column),
                image=column(self.image_column),
            ).collect()
        in_folder = images_by_stem(folder / self.images_folder)
        bases = (folder / self.images_folder, folder)
        images: dict[str, str | None] = {}
        for item_id, name in items.select("item_id", "image").rows():
            if name:
                # Keep the path of a file that does not exist, so that it is reported as missing.
                candidates = (base / name for base in bases if (base / name).is_file())
                images[item_id] = str(next(candidates, bases[0] / name))
            else:
                images[item_id] = in_folder.get(item_id)
        return to_items(items.drop("image"), path, images=images)


def _find_table(folder: Path, name: str | None, default: str) -> Path:
    """Return the file with the given name, or else the one with the default name."""
    patterns = [name] if name else [f"{default}.{suffix}" for suffix in _FORMATS]
    return require_file(folder, *patterns, content=default)
