"""GRU4Rec's network against torch's own GRU on single histories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._sequences.item_embeddings import IdEmbedding
from mllm_msr.baselines._training.histories import Histories, batch_of
from mllm_msr.baselines.gru4rec import Gru4Rec, Gru4RecNetwork, HistoryGru
from mllm_msr.errors import SettingsError


def batch(*lists: list[int]):
    starts = np.cumsum([0, *map(len, lists)])
    codes = np.array([code for codes in lists for code in codes])
    return batch_of(Histories(codes, starts), np.arange(len(lists)))


def test_each_history_is_processed_independently():
    torch.manual_seed(0)
    history_gru = HistoryGru(3, hidden=5, n_layers=2)
    inputs = torch.randn(8, 3)
    with torch.no_grad():
        found = history_gru(inputs, batch([1, 2, 3, 4, 5], [6, 7], [8]))
        alone = [history_gru.gru(part)[0] for part in inputs.split([5, 2, 1])]
    assert torch.allclose(found, torch.cat(alone), atol=1e-6)


def test_a_state_does_not_depend_on_later_items():
    torch.manual_seed(0)
    items = IdEmbedding(9, 4)
    network = Gru4RecNetwork(items, embedding=4, hidden=6, n_layers=1, dropout=0.3).eval()
    with torch.no_grad():
        short, long = network(batch([1, 2, 3])), network(batch([1, 2, 3, 4]))
    assert torch.allclose(long[:3], short, atol=1e-6)
    assert short.shape == (3, 4)
    assert not torch.allclose(short[0], short[1], atol=1e-3)


@pytest.mark.parametrize("name", ["embedding", "hidden", "n_layers"])
def test_sizes_below_one_are_rejected(name):
    with pytest.raises(SettingsError, match=f"{name} must be at least 1, but is 0"):
        Gru4Rec(**{name: 0})
