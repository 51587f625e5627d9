"""The graph of users and items, and the network that MMGCN and MGAT share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._content.tensors import settle_unchosen
from mllm_msr.baselines._graphs.bipartite import Bipartite, NodeNetwork, bpr_loss, item_vectors
from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.train import seeded
from mllm_msr.baselines.mgat import GatedAttention
from mllm_msr.baselines.mmgcn import MeanAggregation

N_CODES, WIDTH = 6, 4
# Three users; code 5 and the unknown code 0 were never chosen; user 1 chose item 2 twice.
HISTORIES = Histories(np.array([1, 2, 3, 2, 4, 2, 1]), np.array([0, 3, 6, 7]))


@pytest.fixture(params=[MeanAggregation, GatedAttention], ids=["mmgcn", "mgat"])
def network(request):
    with seeded(0):
        features = [torch.randn(N_CODES, 3), torch.randn(N_CODES, 2)]
        return NodeNetwork(features, 3, width=WIDTH, n_layers=2, aggregate=request.param)


@pytest.fixture
def graph():
    return Bipartite.of(HISTORIES, n_items=N_CODES)


def test_every_user_is_joined_with_the_items_he_chose_once(graph):
    edges = graph.to_users
    pairs = set(zip(edges.targets.tolist(), edges.sources.tolist(), strict=True))
    assert pairs == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 4), (2, 1)}
    back = graph.to_items
    assert {
        (b, a) for a, b in zip(back.targets.tolist(), back.sources.tolist(), strict=True)
    } == pairs
    assert len(edges.sources) == 6


def test_a_history_folded_in_is_the_user_of_the_trained_graph(network, graph):
    users, items = network(graph)
    states = network.item_states(graph)
    assert torch.allclose(item_vectors(states), items, atol=1e-6)
    folded = network.fold_in(torch.arange(3), graph.to_users, states)
    assert torch.allclose(folded, users, atol=1e-6)


def test_another_history_gives_another_user(network, graph):
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
        for modality in network.modalities:
            directions = torch.nn.functional.normalize(modality.preferences, dim=-1)
            modality.preferences[:] = torch.nn.functional.normalize(directions.mean(0), dim=-1)
    known = network.fold_in(torch.tensor([1]), edges, states)
    # Directions have length one, their mean has not: only the ids are equal exactly.
    assert torch.allclose(unknown, known, atol=0.3)
    assert torch.isfinite(unknown).all()


def test_items_that_nobody_chose_differ_by_content_alone(network, graph):
    settle_unchosen(network.item_ids, graph.to_items.starts.diff() > 0)
    assert torch.equal(network.item_ids[0], network.item_ids[5])
    assert not torch.equal(network.item_ids[1], network.item_ids[2])
    vectors = network(graph)[1]
    assert not torch.allclose(vectors[0], vectors[5], atol=1e-4)


def test_everything_that_scores_is_trained(network, graph):
    users, items = network(graph)
    (users @ items.T).square().sum().backward()
    still = {name for name, weight in network.named_parameters() if not weight.grad.any()}
    assert not still


def test_squares_count_the_embeddings_of_a_batch(network):
    users, items = torch.tensor([1]), torch.tensor([[2, 3]])
    tables = [network.user_ids, *(modality.preferences for modality in network.modalities)]
    wanted = sum(table[1].square().sum() for table in tables)
    wanted = wanted + network.item_ids[2:4].square().sum()
    assert torch.allclose(network.squares(users, items), 0.5 * wanted)


def test_the_loss_falls_as_the_positive_rises():
    negative = torch.zeros(1, 3)
    losses = [bpr_loss(torch.full((1, 1), value), negative).item() for value in (-2.0, 0.0, 2.0)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[1] == pytest.approx(np.log(2))
