"""SASRec's encoder: causality, independence of histories, no computation for padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._sequences.item_embeddings import IdEmbedding
from mllm_msr.baselines._training.histories import Histories, batch_of
from mllm_msr.baselines.sasrec import SasRec, SasRecNetwork
from mllm_msr.errors import SettingsError


@pytest.fixture
def network() -> SasRecNetwork:
    torch.manual_seed(0)
    made = SasRecNetwork(
        IdEmbedding(9, 8), hidden=8, n_blocks=2, n_heads=2, dropout=0.2, max_length=6
    )
    return made.eval()


def batch(*lists: list[int]):
    starts = np.cumsum([0, *map(len, lists)])
    codes = np.array([code for codes in lists for code in codes])
    return batch_of(Histories(codes, starts), np.arange(len(lists)))


def test_a_state_depends_only_on_earlier_items_of_its_history(network):
    with torch.no_grad():
        alone = network(batch([1, 2, 3]))
        longer = network(batch([1, 2, 3, 4, 5]))
        in_batch = network(batch([7, 8], [1, 2, 3], [6, 6, 6], [5]))
    assert torch.allclose(longer[:3], alone, atol=1e-6)
    # Histories of equal length keep their order: [1, 2, 3] comes first.
    assert torch.allclose(in_batch[:3], alone, atol=1e-6)


def test_the_order_of_a_history_matters(network):
    with torch.no_grad():
        one, other = network(batch([1, 2, 3]))[-1], network(batch([2, 1, 3]))[-1]
    assert not torch.allclose(one, other, atol=1e-3)


def test_nothing_is_computed_for_padding(network):
    n_rows = []
    feed_forward = network.blocks[0].feed_forward
    feed_forward.register_forward_hook(lambda *args: n_rows.append(args[2].shape[0]))
    network(batch([1, 2, 3, 4, 5], [1], [2], [3, 4]))
    assert n_rows == [9]


def test_input_and_output_share_the_item_embeddings(network):
    assert network.table() is network.items.table()
    network(batch([1, 2])).sum().backward()
    assert network.items.table().grad is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 10, "n_heads": 4}, r"n_heads must divide hidden \(10\), but is 4"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, but is 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), but is 1.0"),
        ({"epochs": 0, "loss": "mse"}, r"(?s)2 settings .*epochs must .*loss must be one of soft"),
    ],
)
def test_settings_out_of_range_are_rejected(settings, message):
    with pytest.raises(SettingsError, match=message):
        SasRec(**settings)
