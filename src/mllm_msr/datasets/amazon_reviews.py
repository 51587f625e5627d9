"""Amazon reviews: products with descriptions and image links, releases of 2014, 2018 and 2023.

The releases name the same fields differently: reviewerID, asin, unixReviewTime and imUrl or
imageURLHighRes (2014, 2018); user_id, parent_asin, timestamp in milliseconds and images (2023).
Reviews are JSON Lines files; for 2023, CSV files of interactions also work. The 2014 metadata are
Python literals. The metadata only link to images: `image_urls` lists the links for download, and
files in `images/` are used if they exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import polars as pl

from mllm_msr.data.image_files import find_images
from mllm_msr.data.reading.records import OnBadRows, ReadOptions
from mllm_msr.data.reading.rows import BadRows
from mllm_msr.datasets._amazon_products import read_objects, read_products
from mllm_msr.datasets._interactions import InteractionFormat, Interactions, read_interactions
from mllm_msr.datasets._items import to_items
from mllm_msr.datasets._source_files import require_file, require_folder
from mllm_msr.interfaces import Dataset, RawData

_JSON: Final = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_CSV: Final = (".csv", ".csv.gz")

_FORMAT_2023: Final = InteractionFormat(
    "user_id", "parent_asin", "timestamp", "ms", rating="rating"
)
_FORMAT_2014: Final = InteractionFormat(
    "reviewerID", "asin", "unixReviewTime", "s", rating="overall"
)


@final
class AmazonReviews(Dataset):
    """One category of the Amazon review data in a folder.

    Args:
        path: Folder with the category's reviews and metadata, and optionally `images/`.
        category: Category as written in the file names ("Baby", "Video_Games"). May be empty if
            the folder holds one category only.
        min_rating: Reviews with fewer stars are removed; 0 keeps all.
        on_bad_rows: "error" stops if a line cannot be used; "drop" leaves such lines
            out and counts them.
    """

    def __init__(
        self,
        *,
        path: Path,
        category: str = "",
        min_rating: float = 0.0,
        on_bad_rows: OnBadRows = "error",
    ) -> None:
        self.path = Path(path)
        self.category = category
        self.min_rating = min_rating
        self.on_bad_rows: OnBadRows = on_bad_rows

    def load(self) -> RawData:
        """Read the files.

        Raises:
            DataError: A file is missing, unreadable or not in the expected format.
        """
        folder = require_folder(self.path)
        stem = f"meta_{self.category or '*'}"
        metadata = require_file(
            folder, *(f"{stem}{suffix}" for suffix in _JSON), content="product metadata"
        )
        products, source = read_products(metadata, on_bad_rows=self.on_bad_rows)
        images = find_images(products["item_id"].to_list(), folder / "images")
        options = ReadOptions(on_bad_rows=self.on_bad_rows)
        interactions = self._read_reviews(_find_reviews(folder, metadata), options)
        return RawData(
            interactions=interactions.frame,
            sources=(interactions.source, source),
            items=to_items(products.with_columns(images.columns), metadata),
            item_type="product",
            images=images.source,
            image_urls=products.select("item_id", url="urls").explode("url").drop_nulls("url"),
        )

    def read_interactions(self, file: Path) -> pl.LazyFrame:
        """Read new reviews from a file like those of the category.

        Raises:
            DataError: The file is missing, unreadable or not in the expected format.
        """
        options = ReadOptions(on_bad_rows=self.on_bad_rows, has_settings=False)
        return self._read_reviews(file, options).frame

    def _read_reviews(self, path: Path, options: ReadOptions) -> Interactions:
        """Read reviews, in JSON Lines of any release or in the CSV files of 2023."""
        is_csv = ".csv" in path.suffixes
        first = {} if is_csv else _read_first(path)
        form = _FORMAT_2014 if _FORMAT_2014.user in first else _FORMAT_2023
        form = dataclasses.replace(form, min_rating=self.min_rating)
        return read_interactions(path, form, options=options)


def _find_reviews(folder: Path, metadata: Path) -> Path:
    """Return the reviews of the release that is in the folder."""
    category = metadata.name.split(".")[0].removeprefix("meta_")
    stems = (f"reviews_{category}_5", f"{category}_5", f"reviews_{category}", category)
    patterns = [stem + suffix for stem in stems for suffix in _JSON]
    patterns += [category + suffix for suffix in _CSV]
    return require_file(folder, *patterns, content="reviews")


def _read_first(path: Path) -> Mapping[str, Any]:
    """Return the first object of a file, empty if there is none; other lines are skipped."""
    objects = read_objects(path, BadRows(path.name, "drop"))
    return next((row for _, row in objects), {})
