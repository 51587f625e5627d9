"""Item embeddings: cold items share an id row and differ by their content."""

from __future__ import annotations

import pytest
import torch

from mllm_msr.baselines._sequences.item_embeddings import (
    ContentEmbedding,
    FusedEmbedding,
    IdContentEmbedding,
    IdEmbedding,
    content_in_state,
)

N_WARM = 3
CONTENT = {
    "text": torch.arange(12.0).view(6, 2) / 10,
    "image": torch.arange(18.0).view(6, 3).sin(),
}


def id_content(*, id_dropout: float = 0.0) -> IdContentEmbedding:
    torch.manual_seed(0)
    return IdContentEmbedding(CONTENT, n_warm=N_WARM, size=4, id_dropout=id_dropout)


@pytest.mark.parametrize(
    "embedding",
    [
        IdEmbedding(6, 4),
        ContentEmbedding(CONTENT, 4),
        id_content(),
        FusedEmbedding(id_content(), 5),
    ],
)
def test_the_table_has_the_embeddings_of_all_codes(embedding):
    codes = torch.tensor([[5, 0], [2, 2]])
    assert torch.allclose(embedding.table()[codes], embedding(codes), atol=1e-6)
    assert len(embedding.table()) == 6


def test_cold_items_share_an_id_row_and_differ_by_content():
    table = id_content().table()
    ids, content = table.split(id_content().sizes, dim=1)
    assert torch.equal(ids[4], ids[0])
    assert torch.equal(ids[5], ids[0])
    assert not torch.equal(ids[3], ids[0])
    assert not torch.allclose(content[4], content[5])


def test_content_is_frozen_and_its_maps_are_trained():
    embedding = id_content()
    embedding.table().pow(3).sum().backward()
    assert not any(buffer.requires_grad for buffer in embedding.buffers())
    assert all(weight.grad is not None for weight in embedding.parameters())
    # Rows 1 to 3 are warm items; row 0 is shared by all cold items.
    assert embedding.ids.rows.weight.grad is not None
    assert embedding.ids.rows.weight.grad[0].abs().sum() > 0


def test_id_dropout_applies_in_training_only():
    embedding = id_content(id_dropout=1.0 - 1e-9)
    ids = embedding.table()[:, :4]
    assert torch.equal(ids, embedding.ids(torch.zeros(6, dtype=torch.long)))
    ids = embedding.eval().table()[:, :4]
    assert not torch.equal(ids[1], ids[2])


def test_content_is_found_in_a_state_dict():
    found = content_in_state(FusedEmbedding(id_content(), 5).state_dict())
    assert found.keys() == CONTENT.keys()
    assert all(torch.equal(found[name], CONTENT[name]) for name in CONTENT)
    assert content_in_state(IdEmbedding(6, 4).state_dict()) == {}
