"""Products of the Amazon review data: metadata with one product per line.

The metadata of 2014 are Python literals, those of 2018 and 2023 are JSON. Images are links: one
(2014), a list (2018), a list of images with several sizes each (2023), or, as the library
`datasets` exports this list, one list per size.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.data.reading.records import OnBadRows
from mllm_msr.data.reading.rows import BadRows, shown
from mllm_msr.data.reading.text import open_binary, wrap_file_errors
from mllm_msr.data.text_cleaning import clean_text
from mllm_msr.datasets._items import join_sentences
from mllm_msr.types import SourceFile

_MAX_LINE: Final = 32 * 2**20  # bytes
_SCHEMA: Final = {
    **dict.fromkeys(("item_id", "title", "text"), pl.String()),
    "urls": pl.List(pl.String()),
}
_ID_FIELDS: Final = ("parent_asin", "asin")
_TEXT_FIELDS: Final = ("description", "feature", "features")
_SIZES: Final = ("hi_res", "large", "thumb")
_OLD_IMAGE_FIELDS: Final = ("imageURLHighRes", "imageURL", "imUrl")
_LINK: Final = re.compile("https?://", re.IGNORECASE)


def read_products(path: Path, *, on_bad_rows: OnBadRows) -> tuple[pl.DataFrame, SourceFile]:
    """Read the products of a file.

    The releases repeat some products, sometimes with small differences; the first one is used.

    Args:
        path: Metadata, possibly compressed (.gz).
        on_bad_rows: "error" to reject lines that are not an object or have no id, "drop" to leave
            them out.

    Returns:
        Columns `item_id`, `title`, `text` and `urls` (links to images, the main image first), and
        how the file was read.

    Raises:
        DataError: The file is damaged, a line is bad, or all are.
    """
    bad_rows = BadRows(path.name, on_bad_rows)
    rows: list[tuple[str, str, str, list[str]]] = []
    names: dict[str, None] = {}
    for number, product in read_objects(path, bad_rows):
        names.update(dict.fromkeys(map(str, product)))
        item_id = next(filter(None, (_id(product.get(field)) for field in _ID_FIELDS)), "")
        if not item_id:
            bad_rows.add("no product id", f"Line {number} of {path.name} has no {_ID_FIELDS[0]}")
            continue
        title = _as_text(product.get("title"))
        rows.append((item_id, clean_text(title), _text(product), _image_urls(product)))
    bad_rows.finish(len(rows))
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    products = table.unique("item_id", keep="first", maintain_order=True)
    n_repeated = table.height - products.height
    repeated = {"repeated product": n_repeated} if n_repeated else {}
    columns = {
        "item_id": next((field for field in _ID_FIELDS if field in names), ""),
        "title": "title",
        "text": ", ".join(field for field in _TEXT_FIELDS if field in names),
        "image": next((f for f in ("images", *_OLD_IMAGE_FIELDS) if f in names), ""),
    }
    columns = {meaning: name for meaning, name in columns.items() if name in names or "," in name}
    used = {*_ID_FIELDS, *_TEXT_FIELDS, *columns.values()}
    source = SourceFile(
        path=path,
        content="items",
        format="JSON Lines",
        encoding="UTF-8",
        n_rows=len(rows) + sum(bad_rows.counts.values()),
        columns=columns,
        ignored=tuple(name for name in names if name not in used),
        dropped={**bad_rows.counts, **repeated},
    )
    return products, source


def read_objects(path: Path, bad_rows: BadRows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the line number and the object of each line: a JSON object or a Python literal.

    Args:
        path: The file, possibly compressed (.gz). Blank lines are ignored.
        bad_rows: Receives lines that are neither.

    Raises:
        DataError: The file is damaged.
    """
    with wrap_file_errors(path), open_binary(path) as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            is_long = len(line) > _MAX_LINE
            value = None if is_long else _parse(line)
            rest = line
            while len(rest) > _MAX_LINE and not rest.endswith(b"\n"):
                rest = file.readline(_MAX_LINE + 1)
            if isinstance(value, dict):
                yield number, value
            elif is_long or not line.isspace():
                problem = (
                    f"is longer than {_MAX_LINE:,} bytes" if is_long else "is not a JSON object"
                )
                bad_rows.add(
                    "not a JSON object",
                    f"Line {number} of {path.name} {problem}: {shown(line.strip())}",
                )


def _parse(line: bytes) -> Any:
    """Return the value of a line, `None` if it is neither JSON nor a literal of Python."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    # Only an object can be used; others might be expressions that are slow to parse.
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return ast.literal_eval(line.decode().strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _as_text(value: object) -> str:
    """Return a text; empty if the value is not one."""
    return value if isinstance(value, str) else ""


def _as_unicode(value: object) -> str:
    """Return a text as `_as_text`, with question marks for lone surrogates."""
    return _as_text(value).strip().encode(errors="replace").decode()


def _id(value: object) -> str:
    """Return an id; empty if the value is not one."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return str(value) if is_number else _as_unicode(value)


def _text(product: Mapping[str, Any]) -> str:
    """Return description and features as sentences."""
    parts: list[str] = []
    for field in _TEXT_FIELDS:
        value = product.get(field)
        parts += [clean_text(_as_text(part)) for part in _as_list(value)]
    return join_sentences(parts)


def _image_urls(product: Mapping[str, Any]) -> list[str]:
    """Return the distinct links of the images in their largest versions, the main image first.

    The main image is the one of the variant MAIN, or else the first.
    """
    images = product.get("images")
    if isinstance(images, dict):
        lists = {str(name): _as_list(values) for name, values in images.items()}
        n_images = max(map(len, lists.values()), default=0)
        images = [
            {name: values[i] for name, values in lists.items() if i < len(values)}
            for i in range(n_images)
        ]
    found = [image for image in _as_list(images) if isinstance(image, dict)]
    found.sort(key=lambda image: image.get("variant") != "MAIN")
    links = [next(filter(None, (_link(image.get(size)) for size in _SIZES)), "") for image in found]
    # The older fields contain the same images in several sizes.
    for field in _OLD_IMAGE_FIELDS:
        if not any(links):
            links = [_link(value) for value in _as_list(product.get(field))]
    return [link for link in dict.fromkeys(links) if link]


def _link(value: object) -> str:
    """Return a link over https; empty if the value is not a link."""
    link = _as_unicode(value)
    # The 2014 release links to http; the same hosts serve the images over https.
    return _LINK.sub("https://", link, count=1) if _LINK.match(link) else ""


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]
