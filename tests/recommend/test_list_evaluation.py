"""Quality of lists by the number of calls, against hand-computed values."""

from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest

from mllm_msr.recommend.list_evaluation import (
    ScoredList,
    adaptive,
    quality_by_budget,
    summarize,
)
from mllm_msr.recommend.list_weights import ListPlan, ListWeights
from mllm_msr.recommend.rank_fusion import Candidate

CANDIDATES = [Candidate(f"i{n}", -n / 10, ("recent",)) for n in range(30)]
SCORES = {f"i{n}": 0.9 if n == 14 else 0.1 for n in range(30) if n != 2}
LIST = ScoredList("u", "i14", CANDIDATES, SCORES)
WEIGHTS = ListWeights({}, scale=1.0, slope=1.0, bound=4.0, budget=20, reason="")
FITTED = ListPlan("fitted", 20, "", WEIGHTS)


@pytest.mark.parametrize("order", ["model", "fusion"])
def test_only_scored_candidates_move_up(order: str) -> None:
    plan = ListPlan(order, 0, "")  # type: ignore[arg-type]
    assert LIST.quality(plan, 0) == (0.0, 0.0, 0)
    assert LIST.quality(plan, 10) == (0.0, 0.0, 10)


def test_the_model_decides_in_its_own_order() -> None:
    assert LIST.quality(ListPlan("model", 0, ""), 20) == (1.0, 1.0, 20)


def test_fitted_weights_combine_both() -> None:
    hit, gain, calls = LIST.quality(FITTED, 20)
    # Its logit is 4.4 higher than that of the others, which outweighs 14 places.
    assert (hit, gain, calls) == (1.0, 1.0, 20)
    weak = replace(FITTED, weights=replace(WEIGHTS, slope=0.3))
    hit, gain, _ = LIST.quality(weak, 20)
    # 1.3 higher: as the second, because i2 has no score.
    assert (hit, gain) == (1.0, pytest.approx(1 / math.log2(3)))


def test_adaptive_scoring_stops_early() -> None:
    assert LIST.quality(adaptive(FITTED), 30)[2] == 30  # a contribution of 4 outweighs all places
    narrow = replace(FITTED, weights=replace(WEIGHTS, bound=0.05))
    hit, _, calls = LIST.quality(adaptive(narrow), 30)
    # The tenth has the value -0.9, and the next one at most -1.0 + 0.05.
    assert (hit, calls) == (0.0, 10)


def test_the_summary_has_intervals_and_paired_tests() -> None:
    lists = [replace(LIST, user_id=f"u{n}") for n in range(8)]
    frames = quality_by_budget(lists, [FITTED] * 8, [0, 20])
    assert frames[20].row(0, named=True) == {
        "user_id": "u0", "hr@10": 1.0, "ndcg@10": 1.0, "calls": 20
    }  # fmt: skip
    found = summarize(frames, frames[0], seed=0)
    assert found[0]["p_value"] == found[0]["hr_p_value"] == 1.0
    assert found[20]["difference"] == 1.0
    assert found[20]["p_value"] == pytest.approx(2 / 2**8, abs=0.005)
    # One of eight hits changes: any sign is as likely as the other.
    one_hit = frames[20].with_columns(
        pl.when(pl.col("user_id") == "u0").then(1.0).otherwise(0.0).alias("hr@10")
    )
    assert summarize({20: one_hit}, frames[0], seed=0)[20]["hr_p_value"] == 1.0
    assert found[20]["hr@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 8}
    assert found[20]["calls"] == 20.0
