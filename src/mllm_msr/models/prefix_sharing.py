"""Which prompts may share the keys and values of their beginning, and how much of it.

Asked by the backends' engine before it answers many prompts, and by training before it learns from
them. Pure functions of a model's configuration and of token ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

_WRAPPERS: Final = frozenset({"llava", "llava_next"})
_DECODERS: Final = frozenset({"llama", "mistral"})
# Rotations that depend on a token's position alone, not on the length of the whole sequence.
_ROTATIONS: Final = frozenset({"default", "linear", "llama3"})


def can_share(config: Any) -> bool:
    """Whether keys and values of a prompt's beginning are the same whatever follows.

    Said of the architectures for which it holds and is tested; all others take the plain road.
    Sliding windows forget the beginning, Gemma 3 lets a image's tokens look ahead, Qwen-VL counts
    positions by the images' shape, and some rotations change with the length.

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


def common_length(ones: Sequence[int], others: Sequence[int]) -> int:
    """How many first tokens two prompts have in common."""
    pairs = zip(ones, others, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
