"""Candidates: the index finds what brute force finds, fusion by hand, seen items left out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.errors import MissingExtraError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.recommend.retrieval import (
    CollaborativeSource,
    PopularSource,
    PreferenceSource,
    Profile,
    Retriever,
    VectorIndex,
    diversify,
    fuse,
    history_frame,
)
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, conform, empty


def unit(n: int, width: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(n: int) -> list[str]:
    return [f"i{place}" for place in range(n)]


def test_the_exact_index_is_brute_force() -> None:
    vectors = unit(300, 16)
    index = VectorIndex(16)
    index.add(names(300), vectors)
    expected = np.argsort(-(vectors @ vectors[7]))[:9]
    assert index.nearest(vectors[7], 9) == [f"i{row}" for row in expected]


def test_beyond_its_limit_the_index_finds_nearly_the_same_and_still_grows() -> None:
    pytest.importorskip("faiss")
    vectors = unit(1000, 16)
    exact, graph = VectorIndex(16), VectorIndex(16, exact_limit=500)
    for index in (exact, graph):
        index.add(names(900), vectors[:900])
        index.add(names(1000), vectors)
        assert len(index) == 1000
    found = [len(set(graph.nearest(v, 20)) & set(exact.nearest(v, 20))) for v in vectors[850:950]]
    assert sum(found) / 100 > 19
    assert graph.nearest(vectors[999], 1) == ["i999"]


def test_items_that_the_index_holds_keep_their_vectors() -> None:
    index = VectorIndex(2)
    index.add(["a"], np.array([[1, 0]], dtype=np.float32))
    index.add(["a", "b"], np.array([[0, 1], [0, 1]], dtype=np.float32))
    assert index.vectors(["b", "a", "?"]).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert index.nearest(np.zeros(2, dtype=np.float32), 2) == []
    assert VectorIndex(2).nearest(np.ones(2, dtype=np.float32), 2) == []


def test_fusion_by_hand() -> None:
    fused = fuse({"one": ["a", "b", "c"], "two": ["c", "a"]}, exclude=frozenset({"b"}))
    # Without b, c is second in the first ranking.
    assert {c.item_id: c.relevance for c in fused} == pytest.approx(
        {"a": 1 / 61 + 1 / 62, "c": 1 / 62 + 1 / 61}
    )
    assert [c.item_id for c in fused] == ["a", "c"]
    assert [c.generators for c in fused] == [("one", "two"), ("two", "one")]
    assert fuse({}) == []


@given(st.lists(st.permutations(names(6)), max_size=3), st.frozensets(st.sampled_from(names(6))))
def test_fusion_keeps_every_item_once_but_the_excluded(
    rankings: list[list[str]], exclude: frozenset[str]
) -> None:
    fused = fuse({str(place): ranking for place, ranking in enumerate(rankings)}, exclude=exclude)
    expected = set(names(6)) - exclude if rankings else set()
    assert sorted(c.item_id for c in fused) == sorted(expected)
    assert [c.relevance for c in fused] == sorted((c.relevance for c in fused), reverse=True)
    together = {str(place): ranking for place, ranking in enumerate(rankings)}
    assert fuse(together, exclude=exclude, n=2) == fused[:2]


def test_diversity_prefers_what_is_unlike_the_chosen() -> None:
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


def test_an_index_that_cannot_grow_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    index = VectorIndex(2, exact_limit=2)
    index.add(["a", "b"], np.eye(2, dtype=np.float32))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "faiss", None)
        with pytest.raises(MissingExtraError, match="faiss"):
            index.add(["c"], np.array([[0.6, 0.8]], dtype=np.float32))
    assert len(index) == 2
    assert index.nearest(np.array([0.6, 0.8], dtype=np.float32), 5) == ["b", "a"]
    index.add(["c"], np.array([[0.6, 0.8]], dtype=np.float32))
    assert index.nearest(np.array([0.6, 0.8], dtype=np.float32), 1) == ["c"]


def interactions(*rows: tuple[str, str, int]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    position = pl.int_range(pl.len()).over("user_id")
    return conform(frame.with_columns(position=position), INTERACTIONS, name="interactions")


WORLD = interactions(("u", "a", 1), ("u", "b", 2), ("v", "b", 3), ("w", "c", 4), ("x", "c", 5))


def test_recent_popularity_counts_the_latest_and_leaves_room_for_the_unseen() -> None:
    everything = PopularSource(WORLD, recent_share=1.0)
    assert everything.propose(Profile("n"), 3) == ["b", "c", "a"]
    assert everything.propose(Profile("n", ("b",)), 2) == ["c", "a"]
    assert PopularSource(WORLD, recent_share=0.4).propose(Profile("n"), 3) == ["c"]


def test_a_user_without_history_or_preference_gets_popularity_alone() -> None:
    encoder = LsaEncoder(["calm film", "loud song", "calm song"])
    index = VectorIndex(3)
    index.add(["a", "b", "c"], encoder.encode(["calm film", "loud song", "calm song"]))
    data = TrainingData(WORLD, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w", "x"}))
    retriever = Retriever(
        {
            "preference": PreferenceSource(encoder, index),
            "collaborative": CollaborativeSource(Popularity().fit(data), ["a", "b", "c"]),
            "recent": PopularSource(WORLD, recent_share=1.0),
        }
    )
    cold = retriever.retrieve(Profile("nobody"), 5)
    assert {generator for candidate in cold for generator in candidate.generators} == {"recent"}
    warm = retriever.retrieve(Profile("u", ("a", "b"), "calm songs and a calm film"), 5)
    assert [candidate.item_id for candidate in warm] == ["c"]
    assert set(warm[0].generators) == {"preference", "collaborative", "recent"}
    both = retriever.retrieve(Profile("u", ("a",), "film"), 1, exclude_seen=False)
    assert len(both) == 1


class OneByOne(Recommender):
    """Another recommender without its offer to score the whole catalogue."""

    def __init__(self, other: Recommender) -> None:
        self._other = other

    def fit(self, data: TrainingData) -> Self:
        raise NotImplementedError

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        return self._other.score(candidates, interactions)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError


@pytest.mark.parametrize("history", [("a",), ("b", "c"), ("b", "?")])
def test_a_whole_catalogue_scored_at_once_is_ranked_as_item_by_item(
    history: tuple[str, ...],
) -> None:
    data = TrainingData(WORLD, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w", "x"}))
    knn = ItemKnn(shrinkage=0.0).fit(data)
    profile = Profile("n", history)
    for items in (["c", "a", "b"], ["b", "a"]):
        at_once = CollaborativeSource(knn, items).propose(profile, 3)
        assert at_once == CollaborativeSource(OneByOne(knn), items).propose(profile, 3)
        assert sorted(at_once) == sorted(items)
    assert CollaborativeSource(knn, ["a", "b", "c"]).propose(profile, 1) == at_once[:1]


def test_items_of_equal_score_are_ranked_by_id() -> None:
    data = TrainingData(WORLD, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w", "x"}))
    popular = CollaborativeSource(Popularity().fit(data), ["c", "b", "a"])
    assert popular.propose(Profile("n", ("a",)), 3) == ["b", "c", "a"]  # b and c: two users each


def test_a_history_as_a_table_keeps_its_order() -> None:
    frame = history_frame(Profile("u", ("b", "a", "b")))
    assert dict(frame.schema) == dict(INTERACTIONS)
    assert frame.rows() == [("u", "b", 0, 0), ("u", "a", 1, 1), ("u", "b", 2, 2)]
    assert history_frame(Profile("u")).height == 0


def test_a_light_vote_fills_up_behind_the_others() -> None:
    rankings = {"own": [f"own{n}" for n in range(30)], "recent": ["hit", "own5"]}
    alike = [candidate.item_id for candidate in fuse(rankings)]
    assert alike.index("hit") == 1
    light = fuse(rankings, weights={"recent": 0.3})
    found = [candidate.item_id for candidate in light]
    assert found[0] == "own5"  # two votes, however light the second
    assert found[-1] == "hit"
    assert set(found) == set(alike)
    generators = {
        name: SimpleNamespace(propose=lambda _, __, x=x: [x])
        for name, x in (("a", "x"), ("b", "y"))
    }
    retriever = Retriever(generators, weights={"a": 0.5})
    assert [c.item_id for c in retriever.retrieve(Profile("u"), 2)] == ["y", "x"]
