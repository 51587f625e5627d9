"""Conditions under which prompts can share the keys and values of a common prefix.

Used by the inference engine and by training (`ranker.training.prefix_sharing`). The functions
depend only on a model's configuration and on token ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

_WRAPPERS: Final = frozenset({"llava", "llava_next"})
_DECODERS: Final = frozenset({"llama", "mistral"})
# Rotary embeddings that depend only on a token's position, not on the sequence length.
_ROTATIONS: Final = frozenset({"default", "linear", "llama3"})


def can_share_prefixes(config: Any) -> bool:
    """Return whether the keys and values of a prefix are independent of the tokens that follow.

    True only for architectures for which this is tested. All others run whole prompts: sliding
    windows drop the prefix, Gemma 3 lets image tokens attend to later tokens, Qwen-VL derives
    positions from image shapes, and some rotary embeddings depend on the sequence length.

    Args:
        config: A model's configuration.
    """
    text = config.get_text_config()
    rotation = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    layers = getattr(text, "layer_types", None) or ()
    return (
        (text is config or config.model_type in _WRAPPERS)
        and text.model_type in _DECODERS
        and rotation in _ROTATIONS
        and getattr(text, "sliding_window", None) is None
        and all(kind == "full_attention" for kind in layers)
    )


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of leading tokens that two prompts have in common."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
