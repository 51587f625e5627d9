"""Blocked attention: results and gradients of the plain implementation, in blocks of every size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.models import cpu_attention, cpu_runtime
from mllm_msr.models.loading import load_model
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

TEXT_FAMILIES = ("lfm2", "llama", "mistral", "qwen3", "smollm3")


def plain(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, softcap: float | None
) -> Tensor:
    """Return attention in one piece, in float64."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.double().repeat_interleave(repeats, dim=1) for each in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("block_bytes", [1, 4 * 7 * 9 * 2, 2**20])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 6), (6, 2)])
@pytest.mark.parametrize("masked", [None, 1, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_blocks_compute_attention_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, block_bytes, heads, key_heads, masked, softcap
) -> None:
    monkeypatch.setattr(cpu_attention, "_MIN_BYTES", 0)
    monkeypatch.setattr(cpu_attention, "_BLOCK_BYTES", block_bytes)
    torch.manual_seed(0)
    query = torch.randn(3, heads, 7, 4, requires_grad=True)
    key, value = (torch.randn(3, key_heads, 9, 4, requires_grad=True) for _ in range(2))
    mask = None
    if masked is not None:
        hidden = torch.rand(masked, 1, 7, 9) < 0.3
        hidden[..., 0] = False
        mask = torch.zeros(masked, 1, 7, 9).masked_fill(hidden, -1e30)
    found, _ = cpu_attention.attend(nn.Identity(), query, key, value, mask, softcap=softcap)
    expected = plain(query, key, value, mask, softcap)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(expected.shape)
    gradients = torch.autograd.grad((found * weights).sum(), [query, key, value])
    wanted = torch.autograd.grad((expected * weights).sum(), [query, key, value])
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "family",
    [
        *("gemma3", "glm4v", "internvl", "llava_next", "mllama", "qwen3_5", "qwen3_vl", "smolvlm"),
        *TEXT_FAMILIES,
    ],
)
def test_models_give_the_scores_of_plain_attention(
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Callable[[str], Path],
    images: Sequence[Path],
    family: str,
) -> None:
    monkeypatch.setattr(cpu_attention, "_MIN_BYTES", 0)
    monkeypatch.setattr(cpu_attention, "_BLOCK_BYTES", 1)
    shown = [] if family in TEXT_FAMILIES else [ImagePart(images[0])]
    prompts = [
        Prompt((Message("user", (*shown, TextPart(text))),))
        for text in ("Is it red?", "Is it a film about the sea?")
    ]

    def scores(**options: Any) -> list[tuple[float, ...]]:
        backend = HuggingFaceBackend(
            str(tiny_checkpoint(family)), device="cpu", dtype="bfloat16", **options
        )
        found = dict(backend.score(prompts, ("yes", "no")))
        return [tuple(found[n].log_probs) for n in range(len(prompts))]

    assert scores(attention="blocked") == scores(attention="eager")


@pytest.mark.parametrize(
    ("matrix_unit", "dtype", "expected"),
    [
        (False, "bfloat16", "blocked"),
        (True, "bfloat16", "sdpa"),
        (False, "float32", "sdpa"),
        (False, "auto", "sdpa"),
    ],
)
def test_the_default_is_the_fastest_for_the_precision_and_the_processor(
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Callable[[str], Path],
    matrix_unit: bool,
    dtype: Any,
    expected: str,
) -> None:
    monkeypatch.setattr(cpu_runtime, "has_matrix_unit", lambda: matrix_unit)
    loaded = load_model(str(tiny_checkpoint("smolvlm")), device="cpu", dtype=dtype)
    config = loaded.model.config
    assert config._attn_implementation == expected
    assert config.vision_config._attn_implementation == expected
