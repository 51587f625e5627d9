"""A checkpoint for vLLM computes what it computed before, under other names and wider heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks._vllm_checkpoint import readable
from safetensors.torch import load_file, save_file
from torch import Tensor

from mllm_msr.errors import DataError

HEADS, WIDTH = 3, 30
LAYER = "language_model.model.layers.0.self_attn"


def written(folder: Path, *, size: int) -> dict[str, Tensor]:
    """A folder with the parts of a checkpoint that matter here; returns its weights."""
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


def attended(weights: dict[str, Tensor], hidden: Tensor, *, size: int, turned: int) -> Tensor:
    """A layer's attention; `turned` numbers of each head are turned by their place."""
    query, key, value = (
        torch.nn.functional.linear(
            hidden, weights[f"{LAYER}.{name}_proj.weight"], weights[f"{LAYER}.{name}_proj.bias"]
        )
        .unflatten(-1, (HEADS, size))
        .transpose(0, 1)  # [heads, tokens, size]
        for name in "qkv"
    )
    angles = torch.outer(torch.arange(len(hidden)), 0.5 ** torch.arange(turned // 2))
    query, key = (_turned(each, angles.repeat(1, 2)) for each in (query, key))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    return torch.nn.functional.linear(
        output.transpose(0, 1).flatten(1),
        weights[f"{LAYER}.o_proj.weight"],
        weights[f"{LAYER}.o_proj.bias"],
    )


def _turned(heads: Tensor, angles: Tensor) -> Tensor:
    turning, rest = heads.split([angles.shape[1], heads.shape[-1] - angles.shape[1]], dim=-1)
    first, second = turning.chunk(2, dim=-1)
    half = torch.cat([-second, first], dim=-1)
    return torch.cat([turning * angles.cos() + half * angles.sin(), rest], dim=-1)


def test_wider_heads_attend_alike(tmp_path: Path) -> None:
    before = written(tmp_path / "a", size=40)
    folder = readable(tmp_path / "a", tmp_path / "b")
    after = load_file(folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["head_dim"] == 64
    turned = int(text["head_dim"] * text["rope_parameters"]["partial_rotary_factor"])
    assert turned == 40
    hidden = torch.randn(7, WIDTH)
    expected = attended(before, hidden, size=40, turned=40)
    found = attended(after, hidden, size=64, turned=turned)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_towers_are_named_as_they_are_looked_for(tmp_path: Path) -> None:
    before = written(tmp_path / "a", size=40)
    after = load_file(readable(tmp_path / "a", tmp_path / "b") / "model.safetensors")
    old = "vision_tower.encoder.layers.0.self_attn.q_proj.weight"
    new = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert old not in after
    assert torch.equal(after[new], before[old])
    kept = "vision_tower.vision_model.post_layernorm.weight"
    assert torch.equal(after[kept], before[kept])


def test_known_heads_stay_as_they_are(tmp_path: Path) -> None:
    before = written(tmp_path / "a", size=32)
    folder = readable(tmp_path / "a", tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads((tmp_path / "a" / "config.json").read_text())
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before if LAYER in name)


def test_heads_beyond_the_largest_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", size=300)
    with pytest.raises(DataError, match=r"at most 256 numbers.*heads of 300"):
        readable(tmp_path / "a", tmp_path / "b")
