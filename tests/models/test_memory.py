"""Estimates of memory against the tensors of tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.models.loading import load_config, load_model
from mllm_msr.models.memory import Batch, empty_model, inference_bytes, training_bytes, weight_bytes

Checkpoint = Callable[[str], Path]
LENGTH = 40


def _saved_bytes(model: Any, batch: Batch) -> int:
    """Return the memory of the tensors that a backward pass needs, without the weights."""
    kept: list[torch.Tensor] = []
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    ids = torch.zeros(batch.n_rows, batch.length, dtype=torch.long)
    model.get_input_embeddings().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum()
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


def test_the_batch_counts_its_rows() -> None:
    assert Batch(120, 40).n_rows == 3
    assert Batch(121, 40).n_rows == 4
    assert Batch(0, 0).n_rows == 0


@pytest.mark.parametrize("family", ["llama", "llava_next", "qwen3_vl", "gemma3"])
def test_weights_are_counted_without_loading_them(family: str, tiny_checkpoint: Checkpoint) -> None:
    folder = str(tiny_checkpoint(family))
    empty = empty_model(load_config(folder))
    assert all(weight.is_meta for weight in empty.parameters())
    loaded = load_model(folder, dtype="float32", device="cpu").model
    stored = sum(weight.nbytes for weight in loaded.parameters())
    assert weight_bytes(empty, "float32") == stored
    assert weight_bytes(empty, "bfloat16") == stored // 2
    # Embeddings and norms, which stay in bfloat16, are most of a tiny model.
    assert stored // 8 < weight_bytes(empty, "4bit") < stored // 2


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3_vl", "smolvlm"])
def test_training_keeps_about_as_much_as_estimated(
    family: str, tiny_checkpoint: Checkpoint
) -> None:
    model = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu").model
    small, large = Batch(4 * LENGTH, LENGTH), Batch(12 * LENGTH, LENGTH)
    measured = _saved_bytes(model, large) - _saved_bytes(model, small)
    estimates = [
        training_bytes(model, "float32", batch, checkpointing=False) for batch in (small, large)
    ]
    estimated = estimates[1] - estimates[0]
    assert 0.8 * measured < estimated < 2.2 * measured


def test_the_estimate_grows_with_what_takes_memory(tiny_checkpoint: Checkpoint) -> None:
    model = empty_model(load_config(str(tiny_checkpoint("qwen3_vl"))))
    batch = Batch(400, 100)

    def trained(**options: Any) -> int:
        return training_bytes(model, "bfloat16", batch, **{"checkpointing": False, **options})

    assert trained(checkpointing=True) < trained() < trained(fused=False)
    before = trained()
    embeddings = model.get_input_embeddings().requires_grad_(False).weight
    assert trained() == before - 12 * embeddings.numel()
    scored = inference_bytes(model, "bfloat16", batch)
    assert weight_bytes(model, "bfloat16") < scored < trained()
    assert scored < inference_bytes(model, "bfloat16", Batch(800, 100))
    assert inference_bytes(model, "4bit", batch) < scored


def test_frozen_lower_layers_keep_no_results(tiny_checkpoint: Checkpoint) -> None:
    model = empty_model(load_config(str(tiny_checkpoint("llama"))))
    batch = Batch(4000, 1000)

    def trained(**options: Any) -> int:
        return training_bytes(model, "float32", batch, checkpointing=False, **options)

    everything = trained()
    last = model.config.num_hidden_layers - 1
    for name, weight in model.named_parameters():
        weight.requires_grad_(f".layers.{last}." in name)
    upper = trained()
    n_trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    # One of two layers, beside the one that the backward pass is at.
    assert last == 1
    assert upper < 0.7 * everything
    # Copies of the trained weights: the best ones so far, and those in half precision.
    assert trained(keeps_best=True) == upper + 4 * n_trained
    assert trained(mixed=True) < upper  # their results are smaller
    # Gradients of the inputs go through all layers.
    assert everything > trained(trains_inputs=True) > 1.3 * upper


def test_results_under_autocast_take_two_to_four_bytes(tiny_checkpoint: Checkpoint) -> None:
    model = load_model(str(tiny_checkpoint("llama")), dtype="float32", device="cpu").model
    small, large = Batch(4 * LENGTH, LENGTH), Batch(12 * LENGTH, LENGTH)
    with torch.autocast("cpu", torch.bfloat16):
        measured = _saved_bytes(model, large) - _saved_bytes(model, small)
    estimates = [
        training_bytes(model, "float32", batch, checkpointing=False, mixed=True)
        for batch in (small, large)
    ]
    assert 0.8 * measured < estimates[1] - estimates[0] < 2.2 * measured
