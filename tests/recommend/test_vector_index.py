"""Tests for nearest-neighbor search: exact search, the HNSW graph, and failures while growing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mllm_msr.errors import MissingExtraError
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.recommend.vector_index import VectorIndex


def unit_vectors(n: int, width: int) -> Vectors:
    rows = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def item_ids(n: int) -> list[str]:
    return [f"i{index}" for index in range(n)]


def test_exact_search_equals_brute_force() -> None:
    vectors = unit_vectors(300, 16)
    index = VectorIndex(16)
    index.add(item_ids(300), vectors)
    expected = np.argsort(-(vectors @ vectors[7]))[:9]
    found, products = index.nearest(vectors[7], 9)
    assert found == [f"i{row}" for row in expected]
    assert products == pytest.approx((vectors @ vectors[7])[expected])


def test_graph_finds_nearly_the_same_items_and_can_grow() -> None:
    pytest.importorskip("faiss")
    vectors = unit_vectors(1000, 16)
    exact, graph = VectorIndex(16), VectorIndex(16, exact_limit=500)
    for index in (exact, graph):
        index.add(item_ids(900), vectors[:900])
        index.add(item_ids(1000), vectors)
        assert len(index) == 1000
    shared = [
        len(set(graph.nearest(v, 20)[0]) & set(exact.nearest(v, 20)[0])) for v in vectors[850:950]
    ]
    assert sum(shared) / 100 > 19
    found, products = graph.nearest(vectors[999], 1)
    assert (found, products.tolist()) == (["i999"], pytest.approx([1.0]))


def test_known_items_keep_their_vectors() -> None:
    index = VectorIndex(2)
    index.add(["a"], np.array([[1, 0]], dtype=np.float32))
    index.add(["a", "b"], np.array([[0, 1], [0, 1]], dtype=np.float32))
    assert index.vectors(["b", "a", "?"]).tolist() == [[0, 1], [1, 0], [0, 0]]


def test_zero_vector_and_empty_index_have_no_neighbors() -> None:
    index = VectorIndex(2)
    assert index.nearest(np.ones(2, dtype=np.float32), 2)[0] == []
    index.add(["a"], np.array([[1, 0]], dtype=np.float32))
    assert index.nearest(np.zeros(2, dtype=np.float32), 2)[0] == []


def test_failure_while_growing_leaves_the_index_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    index = VectorIndex(2, exact_limit=2)
    index.add(["a", "b"], np.eye(2, dtype=np.float32))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "faiss", None)
        with pytest.raises(MissingExtraError, match="faiss"):
            index.add(["c"], np.array([[0.6, 0.8]], dtype=np.float32))
    assert len(index) == 2
    assert index.nearest(np.array([0.6, 0.8], dtype=np.float32), 5)[0] == ["b", "a"]
    index.add(["c"], np.array([[0.6, 0.8]], dtype=np.float32))
    assert index.nearest(np.array([0.6, 0.8], dtype=np.float32), 1)[0] == ["c"]
