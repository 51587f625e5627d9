"""Which optimizations apply to a model, and why others do not; shown by `mllm-msr doctor`."""

from __future__ import annotations

from typing import Any

from mllm_msr.models.last_token import can_select_positions
from mllm_msr.models.prefix_support import prefix_support, why_not_continuous, why_not_in_training
from mllm_msr.models.vision_cache import VisionCache


def describe_optimizations(model: Any) -> tuple[str, ...]:
    """Return one sentence for each optimization: that it is on, or why it is off.

    Args:
        model: A loaded causal language model of Transformers.
    """
    support = prefix_support(model.config)
    whole = "Scoring computes every prompt as a whole"
    if support.reason and VisionCache.supports(model):
        whole += ", with cached image features"
    window = ""
    if support.window:
        window = f", if prompts are not longer than the sliding window of {support.window} tokens"
    return (
        _sentence(
            "Scoring computes the common prefix of prompts once",
            whole,
            support.reason,
        ),
        _sentence(
            "Writing uses continuous batching and prompt lookup",
            "Writing uses static batches without prompt lookup",
            why_not_continuous(model),
        ),
        _sentence(
            f"Training computes the common prefix of prompts once{window}",
            "Training computes every prompt as a whole",
            why_not_in_training(model),
        ),
        _sentence(
            "Scoring and training compute the last layer for one token of each prompt",
            "Scoring and training compute the last layer for all tokens",
            "" if can_select_positions(model) else "no test covers its last layer",
        ),
    )


def _sentence(on: str, off: str, reason: str) -> str:
    return f"{off}: {reason}." if reason else f"{on}."
