"""MGAT: attention and gate of one layer, by hand. The rest is shared with MMGCN."""

from __future__ import annotations

import numpy as np
import torch

from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines.mgat import GatedAttention, Mgat


def test_neighbors_are_weighted_by_attention_times_gate():
    layer = GatedAttention(3)
    edges = Edges.between(np.array([0, 1, 2]), np.array([0, 0, 1]), n_sources=3, n_targets=3)
    generator = torch.Generator().manual_seed(0)
    targets, sources = torch.randn(2, 3, 3, generator=generator)
    found = layer(edges, targets, sources)
    keys, queries = layer.project(sources), layer.project(targets)
    products = keys[:2] @ queries[0]
    weights = products.softmax(0) * torch.sigmoid(products)
    assert torch.allclose(found[0], torch.nn.functional.leaky_relu(weights @ keys[:2]), atol=1e-5)
    single = torch.sigmoid(keys[2] @ queries[1]) * keys[2]
    assert torch.allclose(found[1], torch.nn.functional.leaky_relu(single), atol=1e-5)
    assert not found[2].any()


def test_every_layer_has_its_own_weights():
    model = Mgat(width=4, n_layers=2)
    one, other = model.aggregate(4), model.aggregate(4)
    assert isinstance(one, GatedAttention)
    assert not torch.equal(one.project.weight, other.project.weight)
