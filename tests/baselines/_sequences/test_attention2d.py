"""Two-dimensional attention against a step-by-step implementation."""

from __future__ import annotations

import math

import pytest
import torch

from mllm_msr.baselines._sequences.attention2d import (
    Attention2d,
    Linear2d,
    Trans2dNetwork,
    pad_histories,
)
from mllm_msr.baselines._training.train import seeded

N_CODES, WIDTH, N_ATTRIBUTES, N_HEADS = 9, 8, 3, 2


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def network():
    with seeded(0):
        return Trans2dNetwork(
            [random(N_CODES, 4), random(N_CODES, 5)],
            width=WIDTH,
            n_heads=N_HEADS,
            max_length=5,
            dropout=0.5,
        ).eval()


def logits(network, history, candidates):
    return batch_logits(network, [history], [candidates])[0]


def batch_logits(network, histories, candidates):
    items = torch.tensor([item for history in histories for item in history], dtype=torch.int64)
    lengths = torch.tensor([len(history) for history in histories])
    return network(items, lengths, torch.tensor(candidates), network.token_table())


def test_each_attribute_has_its_own_map():
    layer = Linear2d(N_ATTRIBUTES, 4, 5)
    tokens = random(2, 7, N_ATTRIBUTES, 4)
    for at in range(N_ATTRIBUTES):
        expected = tokens[..., at, :] @ layer.weight[at] + layer.bias[at]
        assert torch.allclose(layer(tokens)[..., at, :], expected, atol=1e-6)


def test_scores_mix_pairs_steps_and_attributes():
    with seeded(1):
        layer = Attention2d(N_ATTRIBUTES, WIDTH, n_heads=1)
        torch.nn.init.normal_(layer.mixture)
    candidate, history = random(1, 1, N_ATTRIBUTES, WIDTH), random(1, 4, N_ATTRIBUTES, WIDTH)
    queries = layer.queries(candidate)[0, 0]
    keys, values = layer.keys_values(torch.cat([history, candidate], dim=1))[0].chunk(2, dim=-1)
    pair, step, attribute = layer.mixture[0].softmax(-1)
    gathered = torch.zeros(N_ATTRIBUTES, WIDTH)
    products = torch.einsum("ad,sbd->asb", queries, keys) / math.sqrt(WIDTH)
    for a in range(N_ATTRIBUTES):
        mixed = pair * products[a] + attribute * products[a].mean(0, keepdim=True)
        mixed = mixed + step * products.mean((0, 2))[:, None]
        weights = mixed.flatten().softmax(0).view(5, N_ATTRIBUTES)
        gathered[a] = torch.einsum("sb,sbd->d", weights, values)
    found = layer(candidate, history[0], torch.tensor([4]))
    assert torch.allclose(found[0, 0], layer.out(gathered), atol=1e-5)


def test_a_logit_does_not_depend_on_the_other_candidates(network):
    together = logits(network, [1, 2, 3], [4, 5, 6])
    assert torch.allclose(together[1], logits(network, [1, 2, 3], [5])[0], atol=1e-6)


def test_a_logit_does_not_depend_on_the_other_histories(network):
    histories = [[1, 2, 7], [], [3], [4, 3, 2, 1]]
    together = batch_logits(network, histories, [[5, 1], [6, 2], [7, 3], [8, 4]])
    alone = [logits(network, history, [at + 5, at + 1]) for at, history in enumerate(histories)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


@pytest.mark.parametrize("other", [[1, 2, 4], [2, 1, 3], [2, 3]], ids=["item", "order", "length"])
def test_logits_depend_on_items_order_and_length(network, other):
    one, another = logits(network, [1, 2, 3], [5]), logits(network, other, [5])
    assert not torch.allclose(one, another, atol=1e-4)


def test_steps_are_counted_backward_from_the_candidate(network):
    push = random(N_ATTRIBUTES, WIDTH)
    with torch.no_grad():
        network.steps[2] += push
    moved = logits(network, [3], [5]), logits(network, [2, 3], [5])
    with torch.no_grad():
        network.steps[2] -= push
    assert torch.allclose(moved[0], logits(network, [3], [5]), atol=1e-6)
    assert not torch.allclose(moved[1], logits(network, [2, 3], [5]), atol=1e-4)


def test_without_a_history_the_candidate_alone_determines_the_logit(network):
    found = logits(network, [], [1, 2])
    assert torch.isfinite(found).all()
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_every_weight_is_trained(network):
    logits(network, [1, 2, 3, 4, 5], [6, 7, 8, 0]).square().sum().backward()
    untrained = {name for name, weight in network.named_parameters() if not weight.grad.any()}
    assert not untrained
    assert network.item_ids.grad.any(dim=1).all()


def test_concatenated_histories_are_padded():
    tokens = torch.tensor([[1.0], [2.0], [3.0]])
    padded, is_padding = pad_histories(tokens, torch.tensor([2, 0, 1]))
    assert padded[..., 0].tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
    assert is_padding.tolist() == [[False, False], [True, True], [False, True]]
