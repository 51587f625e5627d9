"""GRU4Rec_F's two GRUs. `test_sasrec_f.py` tests cold items for both `_F` models."""

from __future__ import annotations

import numpy as np
import torch

from mllm_msr.baselines._sequences.item_embeddings import IdContentEmbedding
from mllm_msr.baselines._training.histories import Histories, batch_of
from mllm_msr.baselines.gru4rec_f import Gru4RecFNetwork

CONTENT = {"text": torch.randn(6, 3, generator=torch.Generator().manual_seed(0))}


def test_one_gru_reads_ids_and_the_other_content():
    torch.manual_seed(0)
    items = IdContentEmbedding(CONTENT, n_warm=3, size=4, id_dropout=0.0)
    network = Gru4RecFNetwork(items, hidden=5, n_layers=1, dropout=0.0).eval()
    batch = batch_of(Histories(np.array([1, 4, 2]), np.array([0, 3])), np.array([0]))
    states = network(batch)
    assert states.shape == (3, 8)
    sizes = [history_gru.gru.input_size for history_gru in network.grus]
    assert sizes == list(items.sizes) == [4, 4]
    states.sum().backward()
    assert items.ids.rows.weight.grad is not None
    assert items.content.maps["text_map"][0].weight.grad is not None


def test_candidates_have_an_id_part_and_a_content_part():
    items = IdContentEmbedding(CONTENT, n_warm=3, size=4, id_dropout=0.0)
    network = Gru4RecFNetwork(items, hidden=5, n_layers=1, dropout=0.0).eval()
    assert network.table().shape == (6, 8)
    assert torch.equal(network.table()[:, 4:], items.content.table())
