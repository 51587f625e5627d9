"""Report of what was understood of a dataset: counts, warnings, and problems."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_report import describe_source, with_filtering
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
