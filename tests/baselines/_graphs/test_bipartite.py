"""The user-item graph, and the network that MMGCN and MGAT share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._content.tensors import fill_cold_embeddings
from mllm_msr.baselines._graphs.bipartite import (
    BipartiteGraph,
    GraphNetwork,
    bpr_loss,
    item_vectors,
)
from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.train import seeded
from mllm_msr.baselines.mgat import GatedAttention
from mllm_msr.baselines.mmgcn import MeanAggregation

N_CODES, WIDTH = 6, 4
# Three users; code 5 and the unknown code 0 have no interactions; user 1 has item 2 twice.
HISTORIES = Histories(np.array([1, 2, 3, 2, 4, 2, 1]), np.array([0, 3, 6, 7]))


@pytest.fixture(params=[MeanAggregation, GatedAttention], ids=["mmgcn", "mgat"])
def network(request):
    with seeded(0):
        features = [torch.randn(N_CODES, 3), torch.randn(N_CODES, 2)]
        return GraphNetwork(features, 3, width=WIDTH, n_layers=2, aggregate=request.param)


@pytest.fixture
def graph():
    return BipartiteGraph.from_histories(HISTORIES, n_items=N_CODES)


def test_every_user_is_connected_once_with_each_item_of_their_history(graph):
    edges = graph.to_users
    pairs = set(zip(edges.targets.tolist(), edges.sources.tolist(), strict=True))
    assert pairs == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 4), (2, 1)}
    reverse = graph.to_items
    assert {
        (b, a) for a, b in zip(reverse.targets.tolist(), reverse.sources.tolist(), strict=True)
    } == pairs
    assert len(edges.sources) == 6


def test_folding_in_a_training_history_gives_the_trained_user(network, graph):
    users, items = network(graph)
    states = network.item_states(graph)
    assert torch.allclose(item_vectors(states), items, atol=1e-6)
    folded = network.fold_in(torch.arange(3), graph.to_users, states)
    assert torch.allclose(folded, users, atol=1e-6)


def test_another_history_gives_another_user_vector(network, graph):
    states = network.item_states(graph)
    history = np.array([3, 4]), np.array([0, 0])
    edges = Edges.between(*history, n_sources=N_CODES, n_targets=1)
    folded = network.fold_in(torch.tensor([0]), edges, states)
    assert not torch.allclose(folded[0], network(graph)[0][0], atol=1e-3)


def test_an_unknown_user_has_the_mean_embeddings(network, graph):
    states = network.item_states(graph)
    history = np.array([1, 2]), np.array([0, 0])
    edges = Edges.between(*history, n_sources=N_CODES, n_targets=1)
    unknown = network.fold_in(torch.tensor([-1]), edges, states)
    with torch.no_grad():
        network.user_ids[:] = network.user_ids.mean(0)
        for branch in network.modalities:
            directions = torch.nn.functional.normalize(branch.preferences, dim=-1)
            branch.preferences[:] = torch.nn.functional.normalize(directions.mean(0), dim=-1)
    known = network.fold_in(torch.tensor([1]), edges, states)
    # Directions have unit length, their mean does not: only the ids are equal exactly.
    assert torch.allclose(unknown, known, atol=0.3)
    assert torch.isfinite(unknown).all()


def test_items_without_interactions_differ_by_content_alone(network, graph):
    fill_cold_embeddings(network.item_ids, graph.to_items.starts.diff() > 0)
    assert torch.equal(network.item_ids[0], network.item_ids[5])
    assert not torch.equal(network.item_ids[1], network.item_ids[2])
    vectors = network(graph)[1]
    assert not torch.allclose(vectors[0], vectors[5], atol=1e-4)


def test_every_weight_is_trained(network, graph):
    users, items = network(graph)
    (users @ items.T).square().sum().backward()
    untrained = {name for name, weight in network.named_parameters() if not weight.grad.any()}
    assert not untrained


def test_l2_penalty_covers_the_embeddings_of_a_batch(network):
    users, items = torch.tensor([1]), torch.tensor([[2, 3]])
    tables = [network.user_ids, *(branch.preferences for branch in network.modalities)]
    expected = sum(table[1].square().sum() for table in tables)
    expected = expected + network.item_ids[2:4].square().sum()
    assert torch.allclose(network.l2_penalty(users, items), 0.5 * expected)


def test_bpr_loss_decreases_with_the_score_of_the_positive():
    negative = torch.zeros(1, 3)
    losses = [bpr_loss(torch.full((1, 1), value), negative).item() for value in (-2.0, 0.0, 2.0)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[1] == pytest.approx(np.log(2))
