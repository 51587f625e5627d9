"""The fusion network: its inputs, trained weights, independence of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._content.clusters import cluster
from mllm_msr.baselines._graphs.sequence_fusion import SequenceFusion, attend
from mllm_msr.baselines._graphs.sequence_graphs import sequence_graph
from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.train import seeded

N_CODES, WIDTH = 12, 8
HISTORIES = Histories(np.array([1, 2, 3, 2, 4, 5, 6, 7, 9]), np.array([0, 4, 5, 9]))


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(N_CODES, width)).astype(np.float32) for width in (5, 3)]
    for table in tables:
        table[0] = 0.0
    return tables


@pytest.fixture
def clusters(features):
    return [cluster(table, n_clusters=4, n_links=2, seed=0) for table in features]


@pytest.fixture
def network(features, clusters):
    with seeded(0):
        found = SequenceFusion(
            [torch.from_numpy(table) for table in features],
            clusters,
            width=WIDTH,
            n_layers=2,
            dropout=0.5,
        )
    return found.eval()


def states(network, clusters, histories):
    graph = sequence_graph(histories, [found.nearest for found in clusters])
    return network(graph, network.item_table())


def single(*items):
    return Histories(np.array(items), np.array([0, len(items)]))


def test_batched_histories_equal_single_histories(network, clusters):
    together = states(network, clusters, HISTORIES)
    for at in range(3):
        alone = states(network, clusters, single(*HISTORIES[at]))
        assert torch.allclose(together[at], alone[0], atol=1e-5)


@pytest.mark.parametrize("other", [(8, 2, 3), (2, 1, 3), (1, 2, 4)], ids=["item", "order", "last"])
def test_vectors_depend_on_items_and_their_order(network, clusters, other):
    one, another = (
        states(network, clusters, single(1, 2, 3)),
        states(network, clusters, single(*other)),
    )
    assert not torch.allclose(one, another, atol=1e-3)


def test_every_weight_is_trained(network, clusters):
    # Item 3 of the first history has neighbors by "in" and "out"; 1, 2, 1 gives "both".
    histories = Histories(np.array([1, 2, 1, 3, 2, 4, 5, 3, 8, 9, 10, 11]), np.array([0, 8, 12]))
    found = states(network, clusters, histories)
    (found @ network.item_table().T).square().sum().backward()
    untrained = {name for name, weight in network.named_parameters() if not weight.grad.any()}
    assert not untrained


def test_an_item_vector_is_the_id_embedding_plus_projected_content(network, features):
    table = network.item_table()
    ids = table - sum(
        project(torch.from_numpy(each))
        for project, each in zip(network.content, features, strict=True)
    )
    assert torch.allclose(ids, network.item_ids, atol=1e-6)
    assert torch.allclose(table[0], network.item_ids[0])


def test_attention_along_edges_is_attention(clusters):
    graph = sequence_graph(single(1, 2), [found.nearest for found in clusters])
    n_nodes = len(graph.content)
    queries, keys, values = torch.randn(
        3, n_nodes, WIDTH, generator=torch.Generator().manual_seed(1)
    )
    mask = torch.zeros(n_nodes, n_nodes, dtype=torch.bool)
    mask[graph.links.targets, graph.links.sources] = True
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask
    )
    assert torch.allclose(attend(graph.links, queries, keys, values), expected, atol=1e-5)
