"""Rank fusion against hand-computed values, and diversification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.models.encoders.base import Vectors
from mllm_msr.recommend.rank_fusion import diversify, fuse


def item_ids(n: int) -> list[str]:
    return [f"i{index}" for index in range(n)]


def test_fusion_matches_hand_computed_relevance() -> None:
    fused = fuse({"one": ["a", "b", "c"], "two": ["c", "a"]}, exclude=frozenset({"b"}))
    # Without b, c is second in the first ranking.
    assert {c.item_id: c.relevance for c in fused} == pytest.approx(
        {"a": 1 / 61 + 1 / 62, "c": 1 / 62 + 1 / 61}
    )
    assert [c.item_id for c in fused] == ["a", "c"]
    assert [c.generators for c in fused] == [("one", "two"), ("two", "one")]
    assert fuse({}) == []


@given(
    st.lists(st.permutations(item_ids(6)), max_size=3), st.frozensets(st.sampled_from(item_ids(6)))
)
def test_fusion_ranks_every_item_once_except_the_excluded(
    rankings: list[list[str]], exclude: frozenset[str]
) -> None:
    fused = fuse({str(index): ranking for index, ranking in enumerate(rankings)}, exclude=exclude)
    expected = set(item_ids(6)) - exclude if rankings else set()
    assert sorted(c.item_id for c in fused) == sorted(expected)
    assert [c.relevance for c in fused] == sorted((c.relevance for c in fused), reverse=True)
    named = {str(index): ranking for index, ranking in enumerate(rankings)}
    assert fuse(named, exclude=exclude, n=2) == fused[:2]


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
