"""Small contents of a dataset for tests of the report about its files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from PIL import Image

from mllm_msr.interfaces import RawData
from mllm_msr.tables import ITEMS

DAY_MS = 86_400_000


def raw(
    item_ids: list[str],
    *,
    catalog: list[str] | None = None,
    images: dict[str, str] | None = None,
    title: str = "A title",
    **more: object,
) -> RawData:
    """Return data of two users who interacted with all items, one item a day."""
    rows = [(user, item_id, day * DAY_MS) for user in "ab" for day, item_id in enumerate(item_ids)]
    catalog = item_ids if catalog is None else catalog
    items = [(item_id, title, "", (images or {}).get(item_id)) for item_id in catalog]
    return RawData(
        interactions=pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        **more,  # type: ignore[arg-type]
    )


def image(path: Path) -> str:
    Image.new("RGB", (4, 4)).save(path)
    return str(path)
