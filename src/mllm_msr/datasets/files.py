"""Dataset from the user's own files: a table of interactions, a table of items, and images.

Tables may have any format of `data/reading/reader.py`; the column names are settings. The table of
items names or links to an item's image; otherwise `data/image_files.py` finds it by the id.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final, final

import polars as pl

from mllm_msr.data.image_files import ItemImages, find_images
from mllm_msr.data.reading.reader import read_table
from mllm_msr.data.reading.records import Column, OnBadRows, ReadOptions
from mllm_msr.data.times import TimeUnit
from mllm_msr.datasets._interactions import InteractionFormat, read_interactions
from mllm_msr.datasets._items import to_items
from mllm_msr.datasets._source_files import require_folder, require_table
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Dataset, RawData
from mllm_msr.types import SourceFile

_SEPARATORS: Final = {"tab": "\t", "\\t": "\t", "space": " "}
_TITLE, _TEXT, _IMAGE = "title", "text", "image"


@final
class Files(Dataset):
    """Interactions and items from files in one folder.

    Args:
        path: Folder with the files.
        interactions_file: File of the interactions, absolute or relative to `path`;
            `interactions.*` by default.
        items_file: File of the items, likewise; `items.*` by default.
        images_folder: Image folder, which need not exist: a name in `path`, or an absolute path.
        user_column: User id, in the interactions.
        item_column: Item id, in the interactions and in the items.
        time_column: Time, in the interactions; `None` uses the row order.
        time_unit: Unit of the time: "s", "ms", "us" or "ns"; "iso" for ISO 8601 dates as text;
            "excel" for day numbers of spreadsheets; "rank" for numbers that only define an order.
            Ignored for date columns of Parquet and Excel.
        time_format: Format of other dates as text, such as "%d/%m/%Y %H:%M"; replaces `time_unit`.
        rating_column: Rating, in the interactions; `None` if ratings are not used.
        min_rating: Interactions with a lower rating are removed; needs `rating_column`.
        title_column: Title, in the items. Like the next two columns, it may be missing unless its
            setting differs from the default, and is not read with `None`.
        text_column: Longer text, in the items.
        image_column: Image, in the items: a path relative to `images_folder` or `path` (other
            paths are not used), or a link, which is downloaded only with `images.download`; or
            several of them, in a list or separated by "|", see `images.per_item`. Items without a
            value have the images in `images_folder` that are named after their ids.
        separator: Character between the columns of text files, such as ";", "tab" or "space";
            detected by default.
        encoding: Encoding of text files, such as "latin-1"; UTF-8 and UTF-16 are detected.
        decimal_comma: Whether numbers are written as "4,5"; detected by default, except where the
            comma separates columns.
        on_bad_rows: "error" stops if a row has a missing or invalid value; "drop" leaves
            out such rows and counts them.
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
        time_format: str | None = None,
        rating_column: str | None = None,
        min_rating: float = 0.0,
        title_column: str | None = _TITLE,
        text_column: str | None = _TEXT,
        image_column: str | None = _IMAGE,
        separator: str | None = None,
        encoding: str | None = None,
        decimal_comma: bool | None = None,
        on_bad_rows: OnBadRows = "error",
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
        self.time_format = time_format
        self.rating_column = rating_column
        self.min_rating = min_rating
        self.title_column = title_column
        self.text_column = text_column
        self.image_column = image_column
        self.options = ReadOptions(
            separator=_SEPARATORS.get(separator or "", separator),
            encoding=encoding,
            decimal_comma=decimal_comma,
            on_bad_rows=on_bad_rows,
        )
        self.item_type = item_type

    def load(self) -> RawData:
        """Read the files.

        Raises:
            SettingsError: The time unit or format is not supported, or there is a minimum rating
                without a column of ratings.
            DataError: A file is missing, unreadable or not in the expected format.
        """
        if self.min_rating and self.rating_column is None:
            problem = (
                f"data.min_rating={self.min_rating:g} needs a column of ratings. Set "
                "data.rating_column, or leave data.min_rating out."
            )
            raise SettingsError([problem])
        folder = require_folder(self.path)
        path = require_table(folder, self.interactions_file, "interactions")
        form = self._interaction_format
        interactions = read_interactions(path, form, options=self.options)
        items, images, source = self._items(folder)
        return RawData(
            interactions=interactions.frame,
            items=items,
            item_type=self.item_type,
            ordered_by="rank" if form.time is None or form.is_rank else "time",
            image_urls=images.urls,
            sources=(interactions.source, source),
            images=images.source,
        )

    def read_interactions(self, file: Path) -> pl.LazyFrame:
        """Read new interactions with the same columns, units and limits as those of `load`.

        Raises:
            SettingsError: The time unit or format is not supported.
            DataError: The file is missing, unreadable or not in the expected format.
        """
        # The settings of a run cannot be changed, so errors must not suggest it.
        form = dataclasses.replace(self._interaction_format, has_settings=False)
        frame = read_interactions(file, form, options=self.options.without_settings()).frame
        if self.time_column is None:
            return frame.with_columns(timestamp=pl.lit(None, dtype=pl.Int64))
        return frame

    @property
    def _interaction_format(self) -> InteractionFormat:
        return InteractionFormat(
            user=self.user_column,
            item=self.item_column,
            time=self.time_column,
            unit=self.time_unit,
            time_format=self.time_format,
            rating=self.rating_column,
            min_rating=self.min_rating,
            has_settings=True,
        )

    def _items(self, folder: Path) -> tuple[pl.DataFrame, ItemImages, SourceFile]:
        """Read the items and find their images."""
        path = require_table(folder, self.items_file, "items")
        texts = {_TITLE: self.title_column, _TEXT: self.text_column, _IMAGE: self.image_column}
        columns = {"item_id": Column(self.item_column, "id", setting="data.item_column")} | {
            name: Column(
                column,
                "text",
                required=column != name,
                lists=name == _IMAGE,
                setting=f"data.{name}_column",
            )
            for name, column in texts.items()
            if column is not None
        }
        table = read_table(path, columns, options=self.options, content="items")
        absent = {name: pl.lit(None, pl.String) for name in texts if name not in columns}
        items = table.frame.with_columns(**absent).collect()
        images = find_images(
            items["item_id"].to_list(),
            folder / self.images_folder,
            names=items["image"].to_list(),
            root=folder,
        )
        return to_items(items.with_columns(images.columns), path), images, table.description
