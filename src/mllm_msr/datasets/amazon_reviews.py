"""Amazon reviews: products with descriptions and image links, releases of 2014, 2018 and 2023.

The releases name the same fields differently: reviewerID, asin, unixReviewTime and imUrl or
imageURLHighRes (2014, 2018); user_id, parent_asin, timestamp in milliseconds and images (2023).
Reviews are JSON Lines files; for 2023, CSV files of interactions also work. The 2014 metadata are
Python literals. The metadata only link to images: `image_urls` lists the links for download, and
`images/<item>.jpg` is used if it exists.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import json
import logging
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final, final

import polars as pl

from mllm_msr.data.image_files import find_images
from mllm_msr.datasets._interactions import InteractionFormat, Interactions, read_interactions
from mllm_msr.datasets._items import join_sentences, to_items
from mllm_msr.datasets._readers import (
    open_binary,
    require_file,
    require_folder,
    wrap_gzip_errors,
)
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

logger = logging.getLogger(__name__)

_JSON: Final = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_CSV: Final = (".csv", ".csv.gz")
_TAG: Final = re.compile(r"<[a-zA-Z/!]")


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
    """

    def __init__(self, *, path: Path, category: str = "", min_rating: float = 0.0) -> None:
        self.path = Path(path)
        self.category = category
        self.min_rating = min_rating

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
        rows = [
            (
                str(product.get("parent_asin") or product.get("asin") or ""),
                _clean(product.get("title")),
                _text(product),
                _image_url(product),
            )
            for product in _read_objects(metadata)
        ]
        schema = dict.fromkeys(("item_id", "title", "text", "url"), pl.String)
        table = pl.DataFrame(rows, schema=schema, orient="row").filter(pl.col("item_id") != "")
        # The releases repeat some products, sometimes with small differences.
        products = table.unique("item_id", keep="first", maintain_order=True)
        if len(rows) > products.height:
            n_dropped = len(rows) - products.height
            logger.warning(
                "%s: dropped %d products without an id or with a repeated id",
                metadata.name,
                n_dropped,
            )
        images = find_images(products["item_id"].to_list(), folder / "images")
        interactions = self._read_reviews(_find_reviews(folder, metadata))
        return RawData(
            interactions=interactions.frame,
            sources=(interactions.source,),
            items=to_items(products.with_columns(images.paths), metadata),
            item_type="product",
            images=images.source,
            image_urls=products.select("item_id", "url").filter(pl.col("url") != ""),
        )

    def read_interactions(self, file: Path) -> pl.LazyFrame:
        """Read new reviews from a file like those of the category.

        Raises:
            DataError: The file is missing, unreadable or not in the expected format.
        """
        return self._read_reviews(file).frame

    def _read_reviews(self, path: Path) -> Interactions:
        """Read reviews, in JSON Lines of any release or in the CSV files of 2023."""
        is_csv = ".csv" in path.suffixes
        is_2023 = is_csv or _FORMAT_2023.user in next(_read_objects(path), {})
        form = _FORMAT_2023 if is_2023 else _FORMAT_2014
        return read_interactions(path, dataclasses.replace(form, min_rating=self.min_rating))


def _find_reviews(folder: Path, metadata: Path) -> Path:
    """Return the reviews of the release that is in the folder."""
    category = metadata.name.split(".")[0].removeprefix("meta_")
    stems = (f"reviews_{category}_5", f"{category}_5", f"reviews_{category}", category)
    patterns = [stem + suffix for stem in stems for suffix in _JSON]
    patterns += [category + suffix for suffix in _CSV]
    return require_file(folder, *patterns, content="reviews")


def _read_objects(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a file with one JSON object or Python literal per line.

    Raises:
        DataError: A line is neither, or the file is damaged.
    """
    with wrap_gzip_errors(path), open_binary(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                try:
                    row = ast.literal_eval(line.decode())
                except (ValueError, SyntaxError, MemoryError, RecursionError):
                    row = None
            if not isinstance(row, dict):
                raise DataError(
                    f"Line {number} of {path.name} is not a JSON object: {line[:60]!r}. "
                    "Download the file again, or remove the line."
                )
            yield row


def _text(product: Mapping[str, Any]) -> str:
    """Return description and features as sentences."""
    parts: list[str] = []
    for field in ("description", "feature", "features"):
        value = product.get(field)
        parts += [_clean(part) for part in (value if isinstance(value, list) else [value])]
    return join_sentences(parts)


def _image_url(product: Mapping[str, Any]) -> str:
    """Return the link of the first image in its largest version, empty if there is none."""
    images = product.get("images")
    url = ""
    if isinstance(images, list) and images and isinstance(images[0], dict):
        url = str(images[0].get("hi_res") or images[0].get("large") or images[0].get("thumb") or "")
    else:
        for field in ("imageURLHighRes", "imageURL", "imUrl"):
            value = product.get(field)
            if isinstance(value, list):
                value = value[0] if value else ""
            if value:
                url = str(value)
                break
    # The 2014 release links to http; the same hosts serve the images over https.
    return re.sub("^http://", "https://", url)


def _clean(value: object) -> str:
    """Return text on one line without markup and entities; empty if the value is not text."""
    if not isinstance(value, str):
        return ""
    text = html.unescape(value)
    if _TAG.search(text):
        parser = _TextExtractor()
        parser.feed(text)
        parser.close()
        text = parser.text
    return " ".join(text.split())


class _TextExtractor(HTMLParser):
    """HTML parser that collects the text between tags, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._n_hidden = 0  # open script and style tags

    @property
    def text(self) -> str:
        """Return the text collected so far."""
        return "".join(self._pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """Separate words at a start tag."""
        self._pieces.append(" ")
        self._n_hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        """Separate words at an end tag."""
        self._pieces.append(" ")
        self._n_hidden -= tag in {"script", "style"} and self._n_hidden > 0

    def handle_data(self, data: str) -> None:
        """Collect text that is not part of a script or style."""
        if not self._n_hidden:
            self._pieces.append(data)
