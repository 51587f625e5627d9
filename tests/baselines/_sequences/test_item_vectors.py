"""Vectors of items: content tells apart what nobody has chosen."""

from __future__ import annotations

import pytest
import torch

from mllm_msr.baselines._sequences.item_vectors import (
    IdVectors,
    JoinedVectors,
    MappedContent,
    PartedVectors,
    content_of,
)

N_MET = 3
CONTENT = {
    "text": torch.arange(12.0).view(6, 2) / 10,
    "image": torch.arange(18.0).view(6, 3).sin(),
}


def parted(*, id_dropout: float = 0.0) -> PartedVectors:
    torch.manual_seed(0)
    return PartedVectors(CONTENT, n_met=N_MET, size=4, id_dropout=id_dropout)


@pytest.mark.parametrize(
    "vectors", [IdVectors(6, 4), MappedContent(CONTENT, 4), parted(), JoinedVectors(parted(), 5)]
)
def test_the_table_holds_the_vectors_of_all_codes(vectors):
    codes = torch.tensor([[5, 0], [2, 2]])
    assert torch.allclose(vectors.table()[codes], vectors(codes), atol=1e-6)
    assert len(vectors.table()) == 6


def test_items_that_nobody_chose_share_a_row_and_differ_by_content():
    table = parted().table()
    own, content = table.split(parted().sizes, dim=1)
    assert torch.equal(own[4], own[0])
    assert torch.equal(own[5], own[0])
    assert not torch.equal(own[3], own[0])
    assert not torch.allclose(content[4], content[5])


def test_content_is_frozen_and_its_maps_learn():
    vectors = parted()
    vectors.table().pow(3).sum().backward()
    assert not any(buffer.requires_grad for buffer in vectors.buffers())
    assert all(weight.grad is not None for weight in vectors.parameters())
    # Rows 1 to 3 are items; row 0 stands for all that nobody chose.
    assert vectors.ids.rows.weight.grad is not None
    assert vectors.ids.rows.weight.grad[0].abs().sum() > 0


def test_items_lose_their_row_in_training_only():
    vectors = parted(id_dropout=1.0 - 1e-9)
    own = vectors.table()[:, :4]
    assert torch.equal(own, vectors.ids(torch.zeros(6, dtype=torch.long)))
    own = vectors.eval().table()[:, :4]
    assert not torch.equal(own[1], own[2])


def test_saved_weights_name_the_content_that_they_were_made_for():
    found = content_of(JoinedVectors(parted(), 5).state_dict())
    assert found.keys() == CONTENT.keys()
    assert all(torch.equal(found[name], CONTENT[name]) for name in CONTENT)
    assert content_of(IdVectors(6, 4).state_dict()) == {}
