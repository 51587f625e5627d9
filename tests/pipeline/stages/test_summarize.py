"""Stage "summarize": which items are summarized, and what is counted."""

from __future__ import annotations

import polars as pl

from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.settings import InferSettings, SummarizeSettings
from mllm_msr.pipeline.stages.summarize import items_to_summarize, summarize_items
from mllm_msr.tables import INTERACTIONS, ITEMS

ITEMS_TABLE = pl.DataFrame(
    [("a", "A calm lantern", "tale", None), ("b", "", "", None), ("c", "Owl", "", None)],
    schema=dict(ITEMS),
    orient="row",
)


def test_scope_read_leaves_out_items_that_no_preference_reads() -> None:
    histories = pl.DataFrame([("u", "a", 0, 0)], schema=dict(INTERACTIONS), orient="row")
    infer = InferSettings()
    everything = items_to_summarize(ITEMS_TABLE, histories, SummarizeSettings(), infer)
    assert everything.equals(ITEMS_TABLE)
    read = items_to_summarize(ITEMS_TABLE, histories, SummarizeSettings(scope="read"), infer)
    assert read["item_id"].to_list() == ["a"]


def test_counts_name_flags_images_and_source_coverage() -> None:
    backend = MockBackend({"calm lantern": "A calm lantern tale", "Owl": "A purple dragon"})
    finished: list[int] = []
    summaries, counts = summarize_items(
        ITEMS_TABLE, backend, SummarizeSettings(), item_type="film", progress=finished.append
    )
    assert summaries["item_id"].to_list() == ["a", "b", "c"]
    assert counts["items"] == 3
    assert sum(n for name, n in counts.items() if name.startswith("image_")) == 3
    # "A calm lantern tale" is covered by its source, "A purple dragon" is not.
    assert counts["source_coverage"] == 0.5
    assert sum(finished) == 2  # the item without title and text needs no prompt
