"""Combination of proposals against hand-computed values, and diversification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.models.encoders.base import Vectors
from mllm_msr.recommend.rank_fusion import (
    Candidate,
    Pool,
    Proposals,
    Weight,
    diversify,
    with_reciprocal_ranks,
)


def item_ids(n: int) -> list[str]:
    return [f"i{index}" for index in range(n)]


def proposals(*item_ids: str, scores: list[float] | None = None) -> Proposals:
    return Proposals(item_ids, np.array(scores or np.zeros(len(item_ids))))


def test_fixed_weights_match_hand_computed_rank_fusion() -> None:
    pool = Pool(
        {"one": proposals("a", "b", "c"), "two": proposals("c", "a")}, exclude=frozenset({"b"})
    )
    fused = pool.candidates()
    # Without b, c is second in the first ranking.
    assert {c.item_id: c.relevance for c in fused} == pytest.approx(
        {"a": 1 / 61 + 1 / 62, "c": 1 / 62 + 1 / 61}
    )
    assert [c.item_id for c in fused] == ["a", "c"]
    assert [c.generators for c in fused] == [("one", "two"), ("two", "one")]
    assert Pool({}).candidates() == []


def test_scores_are_standardized_over_the_first_proposals() -> None:
    # Of the first two, the mean is 4 and the deviation 2.
    pool = Pool({"one": proposals("a", "b", "c", scores=[6.0, 2.0, 1.0])}, depth=2)
    assert pool.item_ids == ["a", "b", "c"]
    assert pool.features[:, 0, 1].tolist() == pytest.approx([2.0, 0.0, 0.0])
    assert pool.features[:, 0, 0].tolist() == pytest.approx([1 / 61, 1 / 62, 1 / 63])
    ranked = pool.candidates({"one": Weight(rank=61.0, score=0.5)})
    assert ranked[0].relevance == pytest.approx(1.0 + 0.5 * 2.0)
    equal = Pool({"one": proposals("a", "b", scores=[3.0, 3.0])})
    assert equal.features[:, 0, 1].tolist() == [0.0, 0.0]


def test_candidates_of_equal_relevance_are_in_the_order_of_ranks() -> None:
    pool = Pool({"recent": proposals("z", "y", "x")})
    found = pool.candidates({"recent": Weight(0.0, 0.0)})
    assert [c.item_id for c in found] == ["z", "y", "x"]


def test_reciprocal_ranks_replace_other_relevance() -> None:
    found = with_reciprocal_ranks([Candidate("a", 9.0, ("one",)), Candidate("b", 8.0, ("one",))])
    assert [c.relevance for c in found] == pytest.approx([1 / 61, 1 / 62])


@given(
    st.lists(st.permutations(item_ids(6)), max_size=3), st.frozensets(st.sampled_from(item_ids(6)))
)
def test_every_item_is_ranked_once_except_the_excluded(
    rankings: list[list[str]], exclude: frozenset[str]
) -> None:
    named = {str(index): proposals(*ranking) for index, ranking in enumerate(rankings)}
    fused = Pool(named, exclude=exclude).candidates()
    expected = set(item_ids(6)) - exclude if rankings else set()
    assert sorted(c.item_id for c in fused) == sorted(expected)
    assert [c.relevance for c in fused] == sorted((c.relevance for c in fused), reverse=True)
    assert Pool(named, exclude=exclude).candidates(n=2) == fused[:2]


def test_diversity_prefers_items_unlike_those_selected() -> None:
    table = {"a": [1, 0], "twin": [1, 0], "other": [0, 1]}

    def vectors(item_ids: object) -> Vectors:
        return np.array([table[one] for one in item_ids], dtype=np.float32)  # type: ignore[attr-defined]

    items, relevance = ["twin", "a", "other"], [0.9, 1.0, 0.1]
    assert diversify(items, relevance, vectors=vectors, k=2, diversity=0.0) == ["a", "twin"]
    assert diversify(items, relevance, vectors=vectors, k=2, diversity=0.7) == ["a", "other"]
    assert diversify(items, relevance, vectors=vectors, k=9, diversity=0.7) == [
        "a",
        "other",
        "twin",
    ]
    assert diversify([], [], vectors=vectors, k=3, diversity=0.5) == []
