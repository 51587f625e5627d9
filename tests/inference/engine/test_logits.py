"""Tests of the output-layer hooks: one position per row, choices in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mllm_msr.inference.engine.logits import float32_choices
from mllm_msr.models.last_token import logits_at
from mllm_msr.models.loading import load_model

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
LAST = torch.tensor([3, 2])


@pytest.mark.parametrize("family", ["llama", "gemma3"])  # with and without a restricted last layer
@torch.no_grad()
def test_logits_at_equals_the_rows_of_all_logits(
    family: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(str(tiny_checkpoint(family)), device="cpu").model
    expected = model(input_ids=IDS, attention_mask=MASK).logits[torch.arange(2), LAST]
    with logits_at(model, LAST):
        selected = model(input_ids=IDS, attention_mask=MASK).logits
    assert selected.shape[1] == 1
    assert torch.allclose(selected[:, 0], expected, atol=1e-5)
    assert model(input_ids=IDS, attention_mask=MASK).logits.shape[1] == IDS.shape[1]


@torch.no_grad()
def test_float32_choices_refines_only_the_choices(tiny_checkpoint: Callable[[str], Path]) -> None:
    model = load_model(str(tiny_checkpoint("llama")), dtype="bfloat16", device="cpu").model
    choices = torch.tensor([[3, 4], [4, 3]])
    hidden = model.get_decoder()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    exact = hidden[torch.arange(2), LAST].float() @ model.lm_head.weight.float().T
    with logits_at(model, LAST):
        plain = model(input_ids=IDS, attention_mask=MASK).logits[:, 0]
        with float32_choices(model, choices):
            refined = model(input_ids=IDS, attention_mask=MASK).logits[:, 0]
    assert refined.dtype == torch.float32
    assert torch.allclose(refined.gather(1, choices), exact.gather(1, choices), atol=1e-6)
    others = torch.ones_like(refined, dtype=torch.bool).scatter(1, choices, value=False)
    assert torch.equal(refined[others], plain.float()[others])


@torch.no_grad()
def test_float32_models_are_not_refined(tiny_checkpoint: Callable[[str], Path]) -> None:
    model = load_model(str(tiny_checkpoint("llama")), device="cpu").model
    with logits_at(model, LAST):
        plain = model(input_ids=IDS, attention_mask=MASK).logits
        with float32_choices(model, torch.tensor([[3, 4], [4, 3]])):
            assert torch.equal(model(input_ids=IDS, attention_mask=MASK).logits, plain)


def test_hooks_are_removed_after_an_error(tiny_checkpoint: Callable[[str], Path]) -> None:
    model = load_model(str(tiny_checkpoint("llama")), device="cpu").model
    with pytest.raises(RuntimeError, match="stop"), logits_at(model, LAST):
        raise RuntimeError("stop")
    assert not model.get_output_embeddings()._forward_pre_hooks
