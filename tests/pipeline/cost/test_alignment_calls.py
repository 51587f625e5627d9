"""Calls of the alignment for a sample of items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mllm_msr import tables
from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.cost.alignment_calls import alignment_calls
from mllm_msr.pipeline.cost.token_counter import WordCounter
from mllm_msr.prompts.item_types import find_item_type


def test_answers_are_cut_and_items_without_an_image_have_no_calls(images: Sequence[Path]) -> None:
    rows = [
        ("1", "Rain", "Calm music of the sea.", str(images[0])),
        ("2", "Without an image", "Text.", None),
    ]
    frame = pl.DataFrame(rows, schema=tables.ITEMS, orient="row")
    settings = load_settings("default", ["align.max_answer_tokens=3"], environment={})
    calls = alignment_calls(frame, WordCounter(), settings, item_type=find_item_type("film"))
    assert [call.n_output for call in calls] == [3, 1]
    assert all(call.prompt.n_tokens > 3 for call in calls)
