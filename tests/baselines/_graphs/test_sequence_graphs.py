"""Graphs of histories against graphs written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.baselines._graphs.sequence_graphs import sequence_graph
from mllm_msr.baselines._training.histories import Histories

# Clusters of items 1 to 4 by code: item 3 has no cluster, items 1 and 4 share one.
CLUSTERS = np.array([[-1, -1], [0, 1], [1, 2], [-1, -1], [0, -1]])


def edges(graph, relation):
    """Return edges as pairs of node names such as "i1" (item 1) and "c0" (cluster 0)."""
    found = graph.links if relation == "links" else graph.relations[relation]
    names = node_names(graph)
    return sorted(
        (names[source], names[target])
        for source, target in zip(found.sources.tolist(), found.targets.tolist(), strict=True)
    )


def node_names(graph):
    kinds = np.repeat(["i", "c", "d"][: len(graph.kind_sizes)], graph.kind_sizes)
    return [f"{kind}{content}" for kind, content in zip(kinds, graph.content.tolist(), strict=True)]


def one(*items, clusters=(CLUSTERS,)):
    return sequence_graph(Histories(np.array(items), np.array([0, len(items)])), clusters)


def test_consecutive_items_are_connected_by_in_and_out():
    graph = one(1, 2, 3, clusters=(np.full((5, 1), -1),))
    assert node_names(graph) == ["i1", "i2", "i3"]
    assert edges(graph, "in") == [("i1", "i2"), ("i2", "i3")]
    assert edges(graph, "out") == [("i2", "i1"), ("i3", "i2")]
    assert edges(graph, "self") == [("i1", "i1"), ("i2", "i2"), ("i3", "i3")]
    assert not edges(graph, "both")
    assert not edges(graph, "links")


def test_a_repeated_item_is_one_node_and_mutual_edges_are_both():
    graph = one(1, 2, 1, 1, clusters=(np.full((5, 1), -1),))
    assert node_names(graph) == ["i1", "i2"]
    assert edges(graph, "both") == [("i1", "i2"), ("i2", "i1")]
    assert not edges(graph, "in")
    assert graph.last.tolist() == [0]


def test_clusters_are_connected_along_the_history_and_to_their_items():
    graph = one(1, 2)
    assert node_names(graph) == ["i1", "i2", "c0", "c1", "c2"]
    assert edges(graph, "in") == [("c0", "c1"), ("c0", "c2"), ("c1", "c2"), ("i1", "i2")]
    linked = [("i1", "c0"), ("i1", "c1"), ("i2", "c1"), ("i2", "c2")]
    assert edges(graph, "links") == sorted([*linked, *((b, a) for a, b in linked)])


def test_an_item_without_the_modality_interrupts_only_the_clusters():
    graph = one(2, 3, 4)
    assert edges(graph, "in") == [("i2", "i3"), ("i3", "i4")]
    assert [link for link in edges(graph, "links") if "i3" in link] == []


def test_clusters_of_two_modalities_are_linked():
    graph = one(4, clusters=(CLUSTERS[:, :1], CLUSTERS[:, :1] * 0 + 2))
    assert node_names(graph) == ["i4", "c0", "d2"]
    assert len(edges(graph, "links")) == 6
    assert ("c0", "d2") in edges(graph, "links")


def test_histories_are_not_connected():
    together = sequence_graph(Histories(np.array([1, 2, 2, 4]), np.array([0, 2, 4])), (CLUSTERS,))
    n_alone = [one(1, 2), one(2, 4)]
    for relation in ("self", "in", "out", "both", "links"):
        alone = sorted(edges(n_alone[0], relation) + edges(n_alone[1], relation))
        assert edges(together, relation) == alone
    assert [node_names(together)[at] for at in together.last.tolist()] == ["i2", "i4"]


@pytest.mark.parametrize("items", [(1,), (3,), (4, 4)])
def test_short_histories_have_a_last_node(items):
    graph = one(*items)
    assert node_names(graph)[graph.last.item()] == f"i{items[-1]}"
