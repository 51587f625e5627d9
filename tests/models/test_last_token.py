"""Tests of the last layer at selected positions: equal logits, complete cache."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from mllm_msr.models.last_token import can_select_positions, select_positions
from mllm_msr.models.loading import load_model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_logits_and_cache_equal_those_of_the_full_model(
    attention: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(str(tiny_checkpoint("llama")), device="cpu", attention=attention).model
    assert can_select_positions(model)
    torch.manual_seed(0)
    ids = torch.randint(5, 200, (3, 12))
    ends = torch.tensor([6, 0, 3])  # within the last seven tokens
    mask = (torch.arange(12) <= ends.unsqueeze(1) + 5).long()
    plain = DynamicCache()
    whole = model(input_ids=ids, attention_mask=mask, past_key_values=plain, use_cache=True).logits

    cache = DynamicCache()
    with select_positions(model, torch.tensor([4, 4, 4])):
        first = model(input_ids=ids[:, :5], past_key_values=cache, use_cache=True).logits
    with select_positions(model, ends):
        second = model(
            input_ids=ids[:, 5:], attention_mask=mask, past_key_values=cache, use_cache=True
        ).logits

    assert torch.allclose(first[:, 0], whole[:, 4], atol=1e-5)
    assert torch.allclose(second[:, 0], whole[torch.arange(3), ends + 5], atol=1e-5)
    for partial, full in zip(cache.layers, plain.layers, strict=True):
        real = mask.bool()[:, None, :, None].expand_as(full.keys)
        assert torch.allclose(partial.keys[real], full.keys[real], atol=1e-5)
        assert torch.allclose(partial.values[real], full.values[real], atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("n_suffix", [1, 2])
@torch.no_grad()
def test_a_suffix_without_padding_needs_no_mask(
    attention: str, n_suffix: int, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(str(tiny_checkpoint("llama")), device="cpu", attention=attention).model
    torch.manual_seed(0)
    ids = torch.randint(5, 200, (3, 8))
    whole = model(input_ids=ids).logits[:, -1]
    cache = DynamicCache()
    with select_positions(model, torch.tensor([0, 0, 0])):
        model(input_ids=ids[:, :-n_suffix], past_key_values=cache, use_cache=True)
    for keywords in ({}, {"attention_mask": torch.ones_like(ids)}):
        known = copy.deepcopy(cache)
        with select_positions(model, torch.full((3,), n_suffix - 1)):
            suffix = model(
                input_ids=ids[:, -n_suffix:], past_key_values=known, use_cache=True, **keywords
            )
        assert torch.allclose(suffix.logits[:, 0], whole, atol=1e-5)
