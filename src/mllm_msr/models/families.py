"""What is known about model families: which are tested, and which layers LoRA adapts.

`tests/invariants/test_model_families.py` compares each tested family with plain calls of its
processor and model; docs/models.md shows the results. Models of other types are checked when they
are first used (`models.self_check`, `models.vision_cache`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# `model_type` of the configurations that the compatibility test covers.
TESTED_TYPES: Final = frozenset(
    {
        "aya_vision",
        "gemma3",
        "gemma4",
        "glm46v",
        "glm4v",
        "granite4_vision",
        "idefics3",
        "internvl",
        "lfm2",
        "lfm2_vl",
        "llama",
        "llama4",
        "llava",
        "llava_next",
        "llava_onevision",
        "minicpmv4_6",
        "mistral",
        "mistral3",
        "mllama",
        "ovis2",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3",
        "qwen3_5",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smollm3",
        "smolvlm",
    }
)

# Projections of attention and of feed-forward layers in most decoders.
_PROJECTIONS: Final = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)

# Further layers by the type of the decoder. Serving engines adapt these, too.
_OWN_PROJECTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # Linear attention; its gates `in_proj_a` and `in_proj_b` are dropped by serving engines.
        "qwen3_5_text": ("in_proj_qkv", "in_proj_z", "out_proj"),
        "qwen3_5_moe_text": ("in_proj_qkv", "in_proj_z", "out_proj"),
        "qwen3_next": ("in_proj_qkvz", "out_proj"),
        # Convolutions, and other names of the projections.
        "lfm2": ("in_proj", "out_proj", "w1", "w2", "w3"),
        "lfm2_moe": ("in_proj", "out_proj", "w1", "w2", "w3"),
        # One matrix for gate and up.
        "glm4v_text": ("gate_up_proj",),
        "glm4v_moe_text": ("gate_up_proj",),
        "phi3": ("qkv_proj", "gate_up_proj"),
    }
)


def is_tested(config: Any) -> bool:
    """Return whether the compatibility test covers models with this configuration."""
    return config.model_type in TESTED_TYPES


def lora_projections(config: Any) -> tuple[str, ...]:
    """Return the last parts of the names of the layers that LoRA adapts by default.

    Args:
        config: Configuration of a model, or of its decoder.
    """
    text = config.get_text_config()
    return _PROJECTIONS + _OWN_PROJECTIONS.get(text.model_type, ())
