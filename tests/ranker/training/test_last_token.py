"""Training with the last layer at selected positions gives the same losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mllm_msr.models.inputs import Renderer
from mllm_msr.models.last_token import can_select_positions, select_positions
from mllm_msr.models.loading import load_model
from mllm_msr.ranker.training import loss
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import add_lora
from mllm_msr.ranker.training.loss import choice_logits, example_losses

Checkpoint = Callable[[str], Path]


def prepared(
    family: str, tiny_checkpoint: Checkpoint, make_examples: Any, attention: Any = "eager"
) -> tuple[Any, Collator]:
    folder = str(tiny_checkpoint(family))
    loaded = load_model(folder, dtype="float32", device="cpu", attention=attention)
    renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
    examples = make_examples(6, shown=loaded.supports_images)
    return loaded.model, Collator(renderer, examples)


def learn(model: Any, collator: Collator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = collator.training_batch(range(6))
    losses = example_losses(model, batch, batch.pop("labels"))
    model.zero_grad()
    losses.mean().backward()
    gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    return losses.detach(), gradients


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llava_next", "llama"])
def test_losses_gradients_and_scores_equal_those_of_the_whole_layer(
    family: str,
    attention: str,
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, collator = prepared(family, tiny_checkpoint, make_examples, attention)
    assert can_select_positions(model)
    losses, gradients = learn(model, collator)
    with torch.no_grad():
        scores = choice_logits(model, collator.scoring_batch(range(6)), collator.choice_ids)

    monkeypatch.setattr(loss, "can_select_positions", lambda _: False)
    whole_losses, whole_gradients = learn(model, collator)
    with torch.no_grad():
        whole = choice_logits(model, collator.scoring_batch(range(6)), collator.choice_ids)

    assert torch.allclose(losses, whole_losses, atol=1e-5)
    assert torch.allclose(scores, whole, atol=1e-5)
    assert gradients.keys() == whole_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, whole_gradients[name], atol=1e-5), name


def test_only_the_last_layer_is_shortened(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    model, collator = prepared("llama", tiny_checkpoint, make_examples)
    lengths: list[int] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    batch = collator.training_batch(range(6))
    labels = batch.pop("labels")
    example_losses(model, batch, labels)
    assert lengths == [labels.shape[1], 1]
    assert not model.model.layers[-1]._forward_pre_hooks


def test_rows_with_several_labels_need_the_whole_layer(
    tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    model, collator = prepared("llama", tiny_checkpoint, make_examples)
    batch = collator.training_batch(range(6))
    labels = batch.pop("labels").clone()
    labels[:, 1:4] = batch["input_ids"][:, 1:4]
    lengths: list[int] = []
    model.model.layers[-1].mlp.register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    example_losses(model, batch, labels)
    assert lengths == [labels.shape[1]]


def test_layers_with_lora_are_shortened_too(
    tiny_checkpoint: Checkpoint, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, collator = prepared("llava_next", tiny_checkpoint, make_examples)
    wrapped = add_lora(model, rank=2, alpha=4, dropout=0.0, init="gaussian")
    assert can_select_positions(wrapped)
    losses, gradients = learn(wrapped, collator)
    monkeypatch.setattr(loss, "can_select_positions", lambda _: False)
    whole_losses, whole_gradients = learn(wrapped, collator)
    assert torch.allclose(losses, whole_losses, atol=1e-5)
    assert len(gradients) == len(whole_gradients) > 0
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, whole_gradients[name], atol=1e-5), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_other_decoders_are_not_supported(family: str, tiny_checkpoint: Checkpoint) -> None:
    assert not can_select_positions(load_model(str(tiny_checkpoint(family)), device="cpu").model)


def test_sliding_windows_and_gradient_checkpointing_are_not_supported(
    tiny_checkpoint: Checkpoint,
) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    for window, short in ((None, True), (16, False)):
        config = transformers.MistralConfig(
            **sizes, intermediate_size=8, num_hidden_layers=1, vocab_size=9, sliding_window=window
        )
        assert can_select_positions(transformers.MistralForCausalLM(config)) is short
    model = load_model(str(tiny_checkpoint("llama")), device="cpu").model
    model.gradient_checkpointing_enable()
    assert not can_select_positions(model)


def test_mistral_has_the_same_logits_at_selected_positions() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            **sizes, intermediate_size=8, num_hidden_layers=3, vocab_size=9, sliding_window=None
        )
    ).eval()
    ids, ends = torch.randint(0, 9, (3, 7)), torch.tensor([6, 2, 0])
    mask = (torch.arange(7) <= ends.unsqueeze(1)).long()
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits[torch.arange(3), ends]
        with select_positions(model, ends):
            short = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert short.shape == (3, 1, 9)
    assert torch.allclose(short[:, 0], whole, atol=1e-6)


def test_the_layer_is_restored_after_an_error(tiny_checkpoint: Checkpoint) -> None:
    model = load_model(str(tiny_checkpoint("llama")), device="cpu").model

    def fail(positions: Sequence[int]) -> None:
        with select_positions(model, torch.tensor(positions)):
            raise RuntimeError("broken layer")

    with pytest.raises(RuntimeError, match="broken layer"):
        fail([0])
    assert not model.model.layers[-1]._forward_pre_hooks
