"""Samples of ids."""

from __future__ import annotations

import polars as pl

from mllm_msr.pipeline.cost.samples import sample_ids


def test_a_sample_has_all_rows_of_the_same_ids_whatever_their_order() -> None:
    rows = pl.DataFrame({"user_id": ["a", "b", "c", "d"] * 2, "row": range(8)})
    sample = sample_ids(rows, "user_id", 2)
    assert sample["user_id"].n_unique() == 2
    assert sample.height == 4
    assert sample["row"].is_sorted()
    assert set(sample_ids(rows.reverse(), "user_id", 2)["row"]) == set(sample["row"])
    assert sample_ids(rows, "user_id", 9).equals(rows)
