"""A model known by its scores: they are found by key, and never made up."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.baselines._ensemble.precomputed_scores import PrecomputedScores
from mllm_msr.errors import DamagedFileError, DataError
from mllm_msr.tables import INTERACTIONS, empty

TOLD = pl.DataFrame(
    {
        "negatives": ["uniform", "uniform", "popularity"],
        "user_id": ["ann", "bob", "ann"],
        "item_id": ["a", "b", "a"],
        "score": [0.25, 0.75, 0.5],
    }
)


def ask(model: PrecomputedScores, *pairs: tuple[str, str]) -> list[float]:
    candidates = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    return model.score(candidates, empty(INTERACTIONS))["score"].to_list()


def test_scores_are_found_by_key_and_repeated_ones_averaged() -> None:
    model = PrecomputedScores(TOLD, model="mllm")
    assert ask(model, ("bob", "b"), ("ann", "a"), ("bob", "b")) == [0.75, 0.375, 0.75]


def test_a_score_that_the_candidates_bring_is_replaced() -> None:
    asked = TOLD.head(1).with_columns(score=pl.lit(9.0))
    found = PrecomputedScores(TOLD, model="mllm").score(asked, empty(INTERACTIONS))
    assert found["score"].to_list() == [0.375]


def test_what_was_not_told_is_refused() -> None:
    with pytest.raises(DataError, match=r"'mllm' for each of 2 candidates, received none for 1"):
        ask(PrecomputedScores(TOLD, model="mllm"), ("ann", "a"), ("ann", "b"))


def test_what_is_saved_is_told_again(tmp_path) -> None:
    PrecomputedScores(TOLD, model="mllm").save(tmp_path / "mllm")
    again = PrecomputedScores.load(tmp_path / "mllm")
    assert ask(again, ("ann", "a"), ("bob", "b")) == [0.375, 0.75]
    (tmp_path / "mllm" / "told.parquet").write_text("nothing")
    with pytest.raises(DamagedFileError, match="a fitted model in"):
        PrecomputedScores.load(tmp_path / "mllm")
