"""Report of what was understood of a dataset: counts, warnings, and problems."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_report import describe_source, with_filtering
from mllm_msr.data.source_text import report_rows
from mllm_msr.errors import DataError
from mllm_msr.interfaces import RawData
from mllm_msr.tables import ITEMS
from source_data import DAY_MS, image, raw


def test_it_counts_what_the_tables_contain(tmp_path: Path) -> None:
    images = {"v1": image(tmp_path / "v1.png"), "v2": str(tmp_path / "absent.png")}
    (tmp_path / "v3.png").write_bytes(b"no image")
    images["v3"] = str(tmp_path / "v3.png")
    report = describe_source(raw([f"v{n}" for n in range(1, 6)], images=images))
    assert (report.n_interactions, report.n_users, report.n_items) == (10, 2, 5)
    assert (report.first, report.last) == (0, 4 * DAY_MS)
    assert (report.n_known, report.n_items_known, report.n_with_title) == (10, 5, 5)
    assert (report.n_with_text, report.n_with_image, report.missing_images) == (0, 2, 1)
    assert report.missing_examples == (images["v2"],)
    assert report.n_decoded == 2
    assert len(report.unreadable_images) == 1
    assert "v3.png" in report.unreadable_images[0]
    assert report.examples == {"user_id": "a", "item_id": "v1", "catalog_id": "v1"}
    assert report.problems == ()


def test_filtering_adds_counts_and_histories() -> None:
    data = raw(["v1", "v2", "v1"], catalog=["v1", "v2"])
    interactions, counts = prepare_interactions(
        data.interactions, min_user_interactions=1, min_item_interactions=1
    )
    report = with_filtering(describe_source(data), interactions, counts, data.items.head(1))
    assert report.counts["duplicates_dropped"] == 2
    assert [(one.user_id, one.n_items) for one in report.histories] == [("a", 2), ("b", 2)]
    assert report.histories[0].items == (("v1", "A title"), ("v2", ""))


def test_values_of_a_wrong_type_are_an_error() -> None:
    rows = pl.LazyFrame({"user_id": ["u"], "item_id": ["v"], "timestamp": ["yesterday"]})
    with pytest.raises(DataError, match="timestamp"):
        describe_source(RawData(rows, pl.DataFrame(schema=dict(ITEMS))))


def test_items_with_several_images(tmp_path: Path) -> None:
    good, absent = image(tmp_path / "a.png"), str(tmp_path / "absent.png")
    data = raw(["v1", "v2", "v3"], images={"v1": good, "v2": absent, "v3": good})
    several = data.items.with_columns(more_images=pl.Series([[absent, good], [good], None]))
    data = dataclasses.replace(data, items=several)
    report = describe_source(data)
    assert (report.n_with_several, report.n_with_image, report.n_incomplete) == (2, 2, 0)
    assert (report.missing_images, report.n_decoded) == (1, 1)
    row = dict(report_rows(report.to_dict()))["images"]
    assert "2 items with several images, of which the first one is used (images.per_item)" in row
    report = describe_source(data, images_per_item=3)
    assert (report.n_with_several, report.n_with_image, report.n_incomplete) == (2, 3, 2)
    assert report.missing_images == 2
    row = dict(report_rows(report.to_dict()))["images"]
    assert "2 items with several images, of which up to 3 are used (images.per_item)" in row
    assert "2 items without some of the images" in row


def test_items_with_several_links() -> None:
    links = pl.DataFrame(
        {"item_id": ["v1", "v1", "v2"], "url": ["https://i/1", "https://i/2", "x"]}
    )
    report = describe_source(raw(["v1", "v2"], image_urls=links), download_images=True)
    assert (report.n_linked, report.n_with_several) == (2, 1)
