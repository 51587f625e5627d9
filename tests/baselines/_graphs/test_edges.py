"""Edge operations against dense matrices, both values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._graphs.edges import Edges, edge_attention, edge_dot, edge_softmax, edge_sum

N_TARGETS, N_SOURCES, WIDTH = 5, 7, 3


@pytest.fixture
def graph():
    """Edges in random order, none to target 2, and the same graph as a dense mask."""
    rng = np.random.default_rng(0)
    mask = rng.random((N_TARGETS, N_SOURCES)) < 0.4
    mask[2] = False
    mask[0, 3] = True
    targets, sources = mask.nonzero()
    order = rng.permutation(len(targets))
    edges = Edges.between(sources[order], targets[order], n_sources=N_SOURCES, n_targets=N_TARGETS)
    return edges, torch.from_numpy(mask)


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, requires_grad=True)


def dense(edges, values):
    matrix = torch.zeros(N_TARGETS, N_SOURCES)
    return matrix.index_put((edges.targets, edges.sources), values)


def gradients(result, *inputs):
    return torch.autograd.grad(
        (result * torch.arange(result.numel()).view(result.shape)).sum(), inputs
    )


def test_sums_equal_a_product_with_the_dense_matrix(graph):
    edges, _ = graph
    weights, x = random(len(edges.sources)), random(N_SOURCES, WIDTH)
    ours, theirs = edge_sum(edges, weights, x), dense(edges, weights) @ x
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not ours[2].any()
    for one, other in zip(gradients(ours, weights, x), gradients(theirs, weights, x), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_inner_products_equal_those_of_gathered_ends(graph):
    edges, _ = graph
    x, y = random(N_TARGETS, WIDTH), random(N_SOURCES, WIDTH)
    ours, theirs = edge_dot(edges, x, y), (x[edges.targets] * y[edges.sources]).sum(-1)
    assert torch.allclose(ours, theirs, atol=1e-6)
    for one, other in zip(gradients(ours, x, y), gradients(theirs, x, y), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_softmax_equals_the_masked_dense_one(graph):
    edges, mask = graph
    logits = (50.0 * random(len(edges.sources))).detach().requires_grad_()
    ours = edge_softmax(edges, logits)
    matrix = dense(edges, logits).masked_fill(~mask, -torch.inf).softmax(-1)
    theirs = matrix[edges.targets, edges.sources]
    assert torch.allclose(ours, theirs, atol=1e-6)
    for one, other in zip(gradients(ours, logits), gradients(theirs, logits), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_attention_over_two_lists_is_attention_over_their_union(graph):
    edges, mask = graph
    logits, values = (20.0 * random(len(edges.sources))).detach(), random(N_SOURCES, WIDTH)
    logits.requires_grad_()
    first = torch.arange(len(logits)) % 3 == 0
    lists = [
        Edges.between(
            edges.sources[part].numpy(),
            edges.targets[part].numpy(),
            n_sources=N_SOURCES,
            n_targets=N_TARGETS,
        )
        for part in (first, ~first)
    ]
    ours = edge_attention(lists, [logits[first], logits[~first]], values)
    theirs = dense(edges, logits).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num() @ values
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not ours[2].any()
    found = gradients(ours, logits, values)
    expected = gradients(edge_sum(edges, edge_softmax(edges, logits), values), logits, values)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_mean_weights_turn_sums_into_means(graph):
    edges, mask = graph
    means = edge_sum(edges, edges.mean_weights(), torch.ones(N_SOURCES, WIDTH))
    assert torch.equal(means[:, 0] > 0.5, mask.any(1))
    assert torch.allclose(means[mask.any(1)], torch.ones(()), atol=1e-6)


def test_edges_are_complete_in_any_order(graph):
    edges, mask = graph
    assert torch.equal(dense(edges, torch.ones(len(edges.sources))) > 0, mask)
    assert edges.n_targets == N_TARGETS


def test_a_graph_without_edges_gives_zeros():
    none = np.zeros(0, dtype=np.int64)
    edges = Edges.between(none, none, n_sources=N_SOURCES, n_targets=N_TARGETS)
    x = random(N_SOURCES, WIDTH)
    summed = edge_sum(edges, torch.zeros(0), x)
    assert summed.shape == (N_TARGETS, WIDTH)
    assert not summed.any()
    assert not gradients(summed, x)[0].any()
    assert edge_dot(edges, random(N_TARGETS, WIDTH), x).shape == (0,)


def test_autocast_does_not_affect_the_precision(graph):
    edges, _ = graph
    weights, x = random(len(edges.sources)), random(N_SOURCES, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        summed = edge_sum(edges, weights, x.bfloat16())
    assert summed.dtype == torch.float32
