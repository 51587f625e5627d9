"""Report of what was understood of a dataset's files: "Check my files".

The stage `prepare` stores it in the run folder and shows it; `mllm-msr check` shows it without a
run. `describe_source` reads the raw data; `with_filtering` adds what remains after
filtering. `format_report` in `source_text.py` writes it as text.

A *problem* makes a run useless, such as item ids that match nothing; a *warning* makes it worse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from mllm_msr.data.data_report import DataReport, HistoryPreview
from mllm_msr.data.image_columns import image_lists
from mllm_msr.data.images import image_status
from mllm_msr.data.preprocessing import match_items
from mllm_msr.data.source_findings import (
    find_history_warnings,
    find_problems,
    find_warnings,
)
from mllm_msr.errors import DataError, first_line
from mllm_msr.interfaces import RawData

_N_DECODED: Final = 100  # images that are opened, of all
_N_EXAMPLES: Final = 3
_N_TITLES: Final = 5  # per history in the preview


def describe_source(
    raw: RawData,
    *,
    download_images: bool = False,
    images_per_item: int = 1,
    reads_images: bool = True,
) -> DataReport:
    """Describe the content of a dataset before filtering.

    Reads all interactions once, checks that image files exist, and opens a sample of them.

    Args:
        raw: Content of the dataset.
        download_images: Whether linked images will be downloaded, so that they do not lack.
        images_per_item: Number of images of an item that are used and checked.
        reads_images: Whether a model reads images, so that missing ones are deficits.

    Raises:
        DataError: A column or value of the interactions cannot be read, or an item has several
            rows.
    """
    per_item, totals = _read_interactions(raw.interactions)
    n_interactions, n_users, first, last, user_id = totals
    items, item_counts = match_items(per_item, raw.items)
    n_known = int(per_item.join(raw.items, on="item_id", how="semi")["n"].sum())
    examples = {
        "user_id": user_id,
        "item_id": _first(per_item["item_id"]),
        "catalog_id": _first(raw.items["item_id"]),
    }
    report = DataReport(
        files=raw.sources,
        images=raw.images,
        n_interactions=n_interactions,
        n_users=n_users,
        n_items=items.height,
        n_catalog=raw.items.height,
        ordered_by=raw.ordered_by,
        first=first,
        last=last,
        examples={name: value for name, value in examples.items() if value is not None},
        n_known=n_known,
        n_items_known=items.height - item_counts["items_unknown"],
        n_with_title=items.height - item_counts["items_without_title"],
        n_with_text=items.height - item_counts["items_without_text"],
        reads_images=reads_images,
        **_describe_images(items, raw.image_urls, images_per_item),
    )
    unknown = per_item.join(raw.items, on="item_id", how="anti")["item_id"].sort()
    known = raw.items["item_id"]
    return dataclasses.replace(
        report,
        problems=tuple(find_problems(report, unknown, known)),
        warnings=tuple(
            find_warnings(report, items, unknown, known, download_images=download_images)
        ),
    )


def with_filtering(
    report: DataReport,
    interactions: pl.DataFrame,
    counts: Mapping[str, int],
    items: pl.DataFrame,
) -> DataReport:
    """Return the report with the result of filtering.

    Args:
        report: The report of the source.
        interactions: `tables.INTERACTIONS` after filtering.
        counts: Counts of `preprocessing.prepare_interactions`.
        items: `tables.ITEMS`, with at least all titles of these interactions.
    """
    return dataclasses.replace(
        report,
        counts=dict(counts),
        histories=_preview(interactions, items),
        warnings=(*report.warnings, *find_history_warnings(report, interactions)),
    )


def _read_interactions(
    interactions: pl.LazyFrame,
) -> tuple[pl.DataFrame, tuple[int, int, int | None, int | None, str | None]]:
    """Return the interactions per item (`item_id`, `n`), and the totals of all interactions."""
    table = interactions.select(
        pl.col("user_id", "item_id").cast(pl.String), pl.col("timestamp").cast(pl.Int64)
    )
    totals = table.select(
        n=pl.len(),
        n_users=pl.col("user_id").n_unique(),
        first=pl.col("timestamp").min(),
        last=pl.col("timestamp").max(),
        user_id=pl.col("user_id").drop_nulls().first(),
    )
    try:
        per_item = table.group_by("item_id").agg(n=pl.len()).drop_nulls("item_id")
        counted, total = pl.collect_all([per_item, totals], engine="streaming")
    except pl.exceptions.PolarsError as cause:
        raise DataError(
            "Cannot read the columns user_id, item_id and timestamp (an integer) of the "
            f"interactions: {first_line(cause).rstrip('.')}. "
            "Fix the rows or columns of the source."
        ) from cause
    return counted.sort("item_id"), total.row(0)


def _describe_images(
    items: pl.DataFrame, urls: pl.DataFrame | None, n_images: int
) -> dict[str, Any]:
    """Return the fields of the report about the images of items.

    Args:
        items: `tables.ITEMS`.
        urls: Links to images, see `RawData`.
        n_images: Number of images of an item that are used.
    """
    listed = image_lists(items)
    used = listed.list.head(n_images)
    paths = used.explode().drop_nulls()
    missing = [path for path in paths if not Path(path).is_file()]
    unreadable, n_decoded = _decode_sample(sorted(set(paths) - set(missing)))
    n_existing, n_listed = used.list.set_difference(missing).list.len(), listed.list.len()
    n_linked = 0
    if urls is not None:
        links = urls.join(items.filter(n_existing == 0), on="item_id", how="semi")
        n_links = links["item_id"].value_counts()["count"]
        n_linked, n_listed = len(n_links), pl.concat([n_listed, n_links])
    return {
        "n_with_image": int((n_existing > 0).sum()),
        "n_linked": n_linked,
        "n_with_several": int((n_listed > 1).sum()),
        "images_per_item": n_images,
        "n_incomplete": int(((n_existing > 0) & (n_existing < used.list.n_unique())).sum()),
        "missing_images": len(missing),
        "n_decoded": n_decoded,
        "unreadable_images": tuple(unreadable),
        "missing_examples": tuple(missing[:_N_EXAMPLES]),
    }


def _first(ids: pl.Series) -> str | None:
    return str(ids[0]) if len(ids) else None


def _decode_sample(paths: list[str]) -> tuple[list[str], int]:
    """Open some of the images, evenly spaced; return the problems, and how many were opened."""
    rows = np.unique(np.linspace(0, max(len(paths) - 1, 0), min(_N_DECODED, len(paths)), dtype=int))
    statuses = [image_status(Path(paths[row])) for row in rows]
    return [status.reason for status in statuses if status.status != "ok"], len(statuses)


def _preview(interactions: pl.DataFrame, items: pl.DataFrame) -> tuple[HistoryPreview, ...]:
    """Return the histories of the first, the middle and the last user."""
    users = interactions["user_id"].unique(maintain_order=True)
    chosen = [users[row] for row in sorted({0, len(users) // 2, len(users) - 1}) if len(users)]
    rows = (
        interactions.filter(pl.col("user_id").is_in(chosen))
        .join(items.select("item_id", "title"), on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("title").fill_null(""))
    )
    previews = []
    for user_id in chosen:
        history = rows.filter(pl.col("user_id") == user_id).sort("position")
        shown = history.head(_N_TITLES).select("item_id", "title").rows()
        previews.append(HistoryPreview(user_id, history.height, tuple(shown)))
    return tuple(previews)
