"""Amazon reviews: products with descriptions and image links, releases of 2014, 2018 and 2023.

The field names differ (reviewerID / asin / unixReviewTime against user_id / parent_asin /
timestamp in milliseconds; imUrl, imageURLHighRes, images), the meaning does not. Reviews are JSON
lines, or the 2023 CSV of interactions; the 2014 metadata are Python literals. Images are links:
`image_urls` lists them for the downloader, and `images/<item>.jpg` is used where it exists.
"""

from __future__ import annotations

import ast
import html
import json
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final, final

import polars as pl

from mllm_msr.datasets._interactions import TimeUnit, to_interactions
from mllm_msr.datasets._readers import (
    check_text,
    images_by_stem,
    join_words,
    need_file,
    need_folder,
    open_bytes,
    scan_table,
    to_items,
    unpacking,
)
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

logger = logging.getLogger(__name__)

_JSON: Final = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_CSV: Final = (".csv", ".csv.gz")
_TAG: Final = re.compile(r"<[a-zA-Z/!]")


@dataclass(frozen=True, slots=True)
class _Release:
    """How one family of releases names what is needed of a review."""

    user: str
    item: str
    time: str
    unit: TimeUnit
    rating: str


_NEW: Final = _Release("user_id", "parent_asin", "timestamp", "ms", "rating")
_OLD: Final = _Release("reviewerID", "asin", "unixReviewTime", "s", "overall")


@final
class AmazonReviews(Dataset):
    """One category of the Amazon review data in a folder.

    Args:
        path: Folder with the category's reviews and metadata, and `images/` if any.
        category: Category as the files' names have it ("Baby", "Video_Games"); empty where the
            folder holds one category only.
        min_rating: Reviews with fewer stars are left out, 0 keeps all.
    """

    def __init__(self, *, path: Path, category: str = "", min_rating: float = 0.0) -> None:
        self.path = Path(path)
        self.category = category
        self.min_rating = min_rating

    def load(self) -> RawData:
        """Read the source.

        Raises:
            DataError: A file is missing, unreadable or not in the expected form.
        """
        folder = need_folder(self.path)
        metadata = self._metadata()
        rows = [
            (_item_id(row), _title(row), _text(row), _image_url(row)) for row in _rows(metadata)
        ]
        schema = dict.fromkeys(("item_id", "title", "text", "url"), pl.String)
        table = pl.DataFrame(rows, schema=schema, orient="row").filter(pl.col("item_id") != "")
        # The releases repeat some products, sometimes with small differences.
        distinct = table.unique("item_id", keep="first", maintain_order=True)
        if len(rows) > distinct.height:
            n_dropped = len(rows) - distinct.height
            logger.warning("%s: %d repeated or unnamed products left out", metadata.name, n_dropped)
        return RawData(
            interactions=self._interactions(folder, metadata),
            items=to_items(
                distinct.drop("url"), metadata, images=images_by_stem(folder / "images")
            ),
            item_type="product",
            image_urls=distinct.select("item_id", "url").filter(pl.col("url") != ""),
        )

    def _metadata(self) -> Path:
        stem = f"meta_{self.category or '*'}"
        patterns = [f"{stem}{suffix}" for suffix in _JSON]
        return need_file(self.path, *patterns, what="product metadata")

    def _interactions(self, folder: Path, metadata: Path) -> pl.LazyFrame:
        """Reviews of whichever release is there."""
        category = metadata.name.split(".")[0].removeprefix("meta_")
        stems = (f"reviews_{category}_5", f"{category}_5", f"reviews_{category}", category)
        patterns = [stem + suffix for stem in stems for suffix in _JSON]
        patterns += [category + suffix for suffix in _CSV]
        path = need_file(folder, *patterns, what="reviews")
        if ".csv" in path.suffixes:
            table, release = scan_table(path), _NEW
        else:
            table, release = _scan_reviews(path)
        try:
            return to_interactions(
                table,
                path,
                user=release.user,
                item=release.item,
                time=release.time,
                unit=release.unit,
                rating=release.rating,
                min_rating=self.min_rating,
            )
        except DataError as fault:
            if ".csv" not in path.suffixes and isinstance(
                fault.__cause__, pl.exceptions.PolarsError
            ):
                # Polars does not say which line it could not parse; this reading does.
                deque(_rows(path), maxlen=0)
            raise


def _scan_reviews(path: Path) -> tuple[pl.LazyFrame, _Release]:
    """Reviews as JSON lines, and the release that their field names belong to."""
    check_text(path, quoted=False)
    first = next(_rows(path), {})
    release = _NEW if _NEW.user in first else _OLD
    schema = {
        release.user: pl.String(),
        release.item: pl.String(),
        release.time: pl.Int64(),
        release.rating: pl.Float64(),
    }
    missing = [name for name in schema if name not in first]
    if missing:
        raise DataError(
            needed=f"the fields {', '.join(schema)} in {path.name}",
            received=f"only {', '.join(first) or 'none'}",
            remedy="check that the file holds reviews of the 2014, 2018 or 2023 release",
        )
    return pl.scan_ndjson(path, schema=schema), release


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a file with one JSON object or Python literal per line.

    Raises:
        DataError: A line is neither, or the file is damaged.
    """
    with unpacking(path), open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            row = _parse(line)
            if row is None:
                raise DataError(
                    needed=f"one object per line in {path.name}",
                    received=f"{line[:60]!r} in line {number}",
                    remedy="get the file again, or remove the line",
                )
            yield row


def _parse(line: bytes) -> dict[str, Any] | None:
    """The line's object, `None` where there is none."""
    try:
        row = json.loads(line)
    except ValueError:
        try:
            row = ast.literal_eval(line.decode())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return row if isinstance(row, dict) else None


def _item_id(row: Mapping[str, Any]) -> str:
    return str(row.get("parent_asin") or row.get("asin") or "")


def _title(row: Mapping[str, Any]) -> str:
    return _clean(row.get("title"))


def _text(row: Mapping[str, Any]) -> str:
    """Description and features, each closed as a sentence."""
    parts: list[str] = []
    for field in ("description", "feature", "features"):
        value = row.get(field)
        parts += [_clean(part) for part in (value if isinstance(value, list) else [value])]
    return join_words(parts)


def _image_url(row: Mapping[str, Any]) -> str:
    """The first image's link in its largest version, empty where there is none."""
    # The oldest release has links without encryption; the same hosts serve both.
    return re.sub("^http://", "https://", _raw_image_url(row))


def _raw_image_url(row: Mapping[str, Any]) -> str:
    images = row.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict):
        first = images[0]
        return str(first.get("hi_res") or first.get("large") or first.get("thumb") or "")
    for field in ("imageURLHighRes", "imageURL", "imUrl"):
        value = row.get(field)
        if isinstance(value, list):
            value = value[0] if value else ""
        if value:
            return str(value)
    return ""


def _clean(value: object) -> str:
    """Text without markup and entities, on one line; empty for anything but text."""
    if not isinstance(value, str):
        return ""
    text = html.unescape(value)
    if _TAG.search(text):
        stripper = _Stripper()
        stripper.feed(text)
        stripper.close()
        text = stripper.text
    return " ".join(text.split())


class _Stripper(HTMLParser):
    """Collects the text between tags, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._hidden = 0

    @property
    def text(self) -> str:
        """What was between the tags."""
        return "".join(self._pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """A tag separates words."""
        self._pieces.append(" ")
        self._hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        """A tag separates words."""
        self._pieces.append(" ")
        self._hidden -= tag in {"script", "style"} and self._hidden > 0

    def handle_data(self, data: str) -> None:
        """Text counts unless it is a script's or a style's."""
        if not self._hidden:
            self._pieces.append(data)
