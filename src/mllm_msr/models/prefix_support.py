"""Conditions under which prompts can share the states of a common prefix.

Used by the inference engine and by training (`ranker.training.prefix_sharing`). The conditions are
attributes of a configuration: the kinds of its layers, its rotary embeddings, and a list of
architectures for which tests show that results do not change
(`tests/invariants/test_shared_prefixes.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# Values of `model_type` that the tests cover: models with images, and language models.
TESTED_WRAPPERS: Final = frozenset(
    {
        *("aya_vision", "gemma3", "gemma4", "glm46v", "glm4v", "granite4_vision", "idefics3"),
        *("internvl", "lfm2_vl", "llava", "llava_next", "llava_onevision", "minicpmv4_6"),
        *("mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl", "qwen3_vl_moe", "smolvlm"),
    }
)
TESTED_DECODERS: Final = frozenset(
    {
        *("cohere2", "gemma3_text", "gemma4_text", "glm4v_text", "granite4_vision_text", "lfm2"),
        *("llama", "mistral", "qwen2", "qwen2_5_vl_text", "qwen2_vl_text", "qwen3"),
        *("qwen3_5_text", "qwen3_vl_moe_text", "qwen3_vl_text", "smollm3"),
    }
)
# Rotary embeddings that depend only on a token's position, not on the sequence length.
_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "proportional"})
_ATTENTION_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})
# Layers with a state of a fixed size, which can be copied but not cut to fewer tokens.
_RECURRENT_LAYERS: Final = frozenset({"linear_attention", "conv"})
# Models whose tokens of one image attend to each other, whatever the configuration says.
_BIDIRECTIONAL_IMAGES: Final = frozenset({"gemma3"})
_MASKS: Final = frozenset({"blocked", "eager", "sdpa"})


@dataclass(frozen=True, slots=True)
class PrefixSupport:
    """How the states of a model after a prefix can be reused.

    Attributes:
        reason: Why prefixes cannot be shared, as the end of a sentence; empty if they can.
        layer_types: Kinds of the layers: "full_attention", "sliding_attention" or a recurrent kind.
        window: Number of tokens that layers with a sliding window attend to; 0 without such layers.
        images_are_causal: Whether the tokens of an image attend only to earlier ones. Otherwise,
            images must be part of the prefix: its states are complete, but the mask of tokens after
            cached ones is causal.
    """

    reason: str
    layer_types: frozenset[str]
    window: int = 0
    images_are_causal: bool = True

    @property
    def is_recurrent(self) -> bool:
        """Return whether some layers have a state that cannot be cut to fewer tokens."""
        return not self.layer_types.isdisjoint(_RECURRENT_LAYERS)


# Support without restrictions, as of a decoder with full attention.
ANY_PREFIX: Final = PrefixSupport("", frozenset({"full_attention"}))


def prefix_support(config: Any) -> PrefixSupport:
    """Return how the states after a prefix can be reused, from a model's configuration.

    Models outside the tested architectures run whole prompts: some let image tokens attend to later
    tokens or to the whole prompt, and others have several inputs for one position.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) or 0
    every_layer = "sliding_attention" if window else "full_attention"
    kinds = frozenset(getattr(text, "layer_types", None) or [every_layer])
    untested = {text.model_type} - TESTED_DECODERS
    if text is not config:
        untested |= {config.model_type} - TESTED_WRAPPERS
    unknown = kinds - _ATTENTION_LAYERS - _RECURRENT_LAYERS
    rotations = _rotations(text) - _ROTATIONS
    reason = ""
    if untested:
        reason = f"no test covers the model type {', '.join(sorted(untested))}"
    elif unknown:
        reason = f"no test covers layers of the kind {', '.join(sorted(unknown))}"
    elif rotations:
        names = ", ".join(sorted(rotations))
        reason = f"its rotary embeddings ({names}) depend on the length of the sequence"
    is_causal = config.model_type not in _BIDIRECTIONAL_IMAGES
    return PrefixSupport(
        reason=reason,
        layer_types=kinds,
        window=window if "sliding_attention" in kinds else 0,
        images_are_causal=is_causal and not getattr(text, "use_bidirectional_attention", None),
    )


def can_share_prefixes(config: Any) -> bool:
    """Return whether the states of a prefix are independent of the tokens that follow.

    Args:
        config: A model's configuration.
    """
    return not prefix_support(config).reason


def why_not_continuous(model: Any) -> str:
    """Return why sequences of different lengths cannot share a decoding step; empty if they can.

    Args:
        model: A causal language model of Transformers.
    """
    support = prefix_support(model.config)
    attention = model.get_decoder().config._attn_implementation  # noqa: SLF001 - no public name
    if support.reason:
        return support.reason
    if support.is_recurrent:
        return "its recurrent layers cannot remove the states of padding and of rejected drafts"
    if attention not in _MASKS:
        return f"attention of the kind {attention} accepts no mask for it"
    return ""


def why_not_in_training(model: Any) -> str:
    """Return why training cannot compute the prefixes of prompts once; empty if it can.

    Args:
        model: A causal language model of Transformers, with or without PEFT's wrapper.
    """
    layers = getattr(model.get_decoder(), "layers", ())
    if any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        return "gradient checkpointing keeps no keys and values"
    return why_not_continuous(model)


def common_prefix_length(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the number of leading elements, such as tokens, that two sequences have in common."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _rotations(text: Any) -> set[str]:
    """Return the kinds of rotary embeddings of a decoder, which may differ between layers."""
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    return {str(value.get("rope_type", "default")) for value in by_layer}
