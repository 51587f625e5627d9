"""A checkpoint converted for vLLM has other names and head sizes but computes the same function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from benchmarks import _vllm_checkpoint
from benchmarks._vllm_checkpoint import convert_checkpoint
from mllm_msr.errors import DataError

HEADS, WIDTH = 3, 30
LAYER = "language_model.model.layers.0.self_attn"


def write_checkpoint(folder: Path, *, size: int) -> dict[str, Tensor]:
    """Write the files of a checkpoint that the conversion reads, and return its weights."""
    torch.manual_seed(0)
    rows = HEADS * size
    weights = {
        "vision_tower.encoder.layers.0.self_attn.q_proj.weight": torch.randn(8, 8),
        "vision_tower.vision_model.post_layernorm.weight": torch.randn(8),
        f"{LAYER}.o_proj.weight": torch.randn(WIDTH, rows),
        f"{LAYER}.o_proj.bias": torch.randn(WIDTH),
        "language_model.lm_head.weight": torch.randn(9, WIDTH),
    }
    for name in "qkv":
        weights[f"{LAYER}.{name}_proj.weight"] = torch.randn(rows, WIDTH) / WIDTH
        weights[f"{LAYER}.{name}_proj.bias"] = torch.randn(rows)
    text: dict[str, Any] = {
        "num_attention_heads": HEADS,
        "hidden_size": WIDTH,
        "head_dim": size,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", "text_config": text}))
    save_file(weights, folder / "model.safetensors")
    return weights


def attention(weights: dict[str, Tensor], hidden: Tensor, *, size: int, n_rotated: int) -> Tensor:
    """Compute attention of one layer; the first `n_rotated` values of each head are rotated."""
    query, key, value = (
        torch.nn.functional.linear(
            hidden, weights[f"{LAYER}.{name}_proj.weight"], weights[f"{LAYER}.{name}_proj.bias"]
        )
        .unflatten(-1, (HEADS, size))
        .transpose(0, 1)  # [heads, tokens, size]
        for name in "qkv"
    )
    angles = torch.outer(torch.arange(len(hidden)), 0.5 ** torch.arange(n_rotated // 2))
    query, key = (_rotate(each, angles.repeat(1, 2)) for each in (query, key))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    return torch.nn.functional.linear(
        output.transpose(0, 1).flatten(1),
        weights[f"{LAYER}.o_proj.weight"],
        weights[f"{LAYER}.o_proj.bias"],
    )


def _rotate(heads: Tensor, angles: Tensor) -> Tensor:
    rotated, rest = heads.split([angles.shape[1], heads.shape[-1] - angles.shape[1]], dim=-1)
    first, second = rotated.chunk(2, dim=-1)
    half = torch.cat([-second, first], dim=-1)
    return torch.cat([rotated * angles.cos() + half * angles.sin(), rest], dim=-1)


def test_padded_heads_compute_the_same_attention(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "a", size=40)
    folder = convert_checkpoint(tmp_path / "a", tmp_path / "b")
    after = load_file(folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["head_dim"] == 64
    n_rotated = int(text["head_dim"] * text["rope_parameters"]["partial_rotary_factor"])
    assert n_rotated == 40
    hidden = torch.randn(7, WIDTH)
    expected = attention(before, hidden, size=40, n_rotated=40)
    found = attention(after, hidden, size=64, n_rotated=n_rotated)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_vision_towers_are_renamed(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "a", size=40)
    after = load_file(convert_checkpoint(tmp_path / "a", tmp_path / "b") / "model.safetensors")
    old = "vision_tower.encoder.layers.0.self_attn.q_proj.weight"
    new = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert old not in after
    assert torch.equal(after[new], before[old])
    unchanged = "vision_tower.vision_model.post_layernorm.weight"
    assert torch.equal(after[unchanged], before[unchanged])


def test_heads_of_a_supported_size_are_not_changed(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "a", size=32)
    folder = convert_checkpoint(tmp_path / "a", tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads((tmp_path / "a" / "config.json").read_text())
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before if LAYER in name)


def test_heads_larger_than_supported_are_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", size=300)
    with pytest.raises(DataError, match=r"heads of size 300.*at most 256"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b")


def test_smolvlm_becomes_idefics3_and_computes_the_same(
    tiny_checkpoint: Callable[[str], Path],
    processor: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Transformers ignores the padding's share of rotated values in this decoder; vLLM does not.
    monkeypatch.setattr(_vllm_checkpoint, "HEAD_SIZES", range(128))
    before = tiny_checkpoint("smolvlm")
    after = convert_checkpoint(before, tmp_path / "converted")
    image = Image.effect_noise((60, 40), 50).convert("RGB")
    inputs = processor("smolvlm")(text="<image>Is it red?", images=image, return_tensors="pt")
    expected, got = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        for folder in (before, after)
    )
    assert got.config.model_type == "idefics3"
    with torch.inference_mode():
        torch.testing.assert_close(got(**inputs).logits, expected(**inputs).logits)


def test_the_language_model_of_a_tower_of_this_package_computes_the_same(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_vllm_checkpoint, "HEAD_SIZES", range(128))  # as above
    before = tiny_checkpoint("llava_efficientnet")
    after = convert_checkpoint(Path(before), tmp_path / "converted")
    ids = torch.tensor([[5, 6, 7, 8]])
    text = AutoModelForCausalLM.from_pretrained(after, dtype=torch.float32).eval()
    whole = AutoModelForImageTextToText.from_pretrained(before, dtype=torch.float32).eval()
    assert text.config.model_type == "llama"
    with torch.inference_mode():
        torch.testing.assert_close(text(ids).logits, whole(input_ids=ids).logits)
