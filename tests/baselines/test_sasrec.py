"""SASRec's encoder: what a state may depend on, and that nothing is computed for padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._sequences.item_vectors import IdVectors
from mllm_msr.baselines._training.histories import Histories, batch_of
from mllm_msr.baselines.sasrec import SasRec, SasRecNetwork
from mllm_msr.errors import SettingsError


@pytest.fixture
def network() -> SasRecNetwork:
    torch.manual_seed(0)
    made = SasRecNetwork(
        IdVectors(9, 8), hidden=8, n_blocks=2, n_heads=2, dropout=0.2, max_length=6
    )
    return made.eval()


def batch(*lists: list[int]):
    starts = np.cumsum([0, *map(len, lists)])
    codes = np.array([code for codes in lists for code in codes])
    return batch_of(Histories(codes, starts), np.arange(len(lists)))


def test_a_state_reads_its_history_up_to_its_token_and_nothing_else(network):
    with torch.no_grad():
        alone = network(batch([1, 2, 3]))
        longer = network(batch([1, 2, 3, 4, 5]))
        beside = network(batch([7, 8], [1, 2, 3], [6, 6, 6], [5]))
    assert torch.allclose(longer[:3], alone, atol=1e-6)
    # Equal lengths keep their order: [1, 2, 3] comes first.
    assert torch.allclose(beside[:3], alone, atol=1e-6)


def test_the_order_of_a_history_matters(network):
    with torch.no_grad():
        one, other = network(batch([1, 2, 3]))[-1], network(batch([2, 1, 3]))[-1]
    assert not torch.allclose(one, other, atol=1e-3)


def test_as_many_positions_are_computed_as_there_are_items(network):
    seen = []
    network.blocks[0].feed.register_forward_hook(lambda *args: seen.append(args[2].shape[0]))
    network(batch([1, 2, 3, 4, 5], [1], [2], [3, 4]))
    assert seen == [9]


def test_states_are_compared_with_the_vectors_that_are_read(network):
    assert network.table() is network.items.table()
    network(batch([1, 2])).sum().backward()
    assert network.items.table().grad is not None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"hidden": 10, "n_heads": 4}, r"n_heads must divide hidden \(10\), it is 4"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, it is 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), it is 1.0"),
        ({"epochs": 0, "loss": "mse"}, "2 with one .*epochs must .*loss must be one of softmax"),
    ],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(SettingsError, match=named):
        SasRec(**settings)
