"""Tests of the conditions for prefix sharing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from mllm_msr.models.prefix_support import can_share_prefixes, common_prefix_length

Checkpoint = Callable[[str], Path]


@pytest.mark.parametrize(
    ("family", "shares"),
    [
        ("llava_next", True),
        ("llama", True),
        ("qwen2_5_vl", False),
        ("smolvlm", False),
        ("gemma3", False),
    ],
)
def test_only_tested_architectures_share_prefixes(
    family: str, shares: bool, tiny_checkpoint: Checkpoint
) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny_checkpoint(family))
    assert can_share_prefixes(config) is shares


def test_sliding_windows_and_dynamic_rope_do_not_share_prefixes() -> None:
    assert can_share_prefixes(transformers.MistralConfig(sliding_window=None))
    assert not can_share_prefixes(transformers.MistralConfig(sliding_window=4096))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert not can_share_prefixes(transformers.LlamaConfig(rope_parameters=dynamic))
    window = transformers.LlavaConfig(text_config=transformers.MistralConfig(sliding_window=4096))
    assert not can_share_prefixes(window)


def test_common_prefix_ends_at_the_first_difference() -> None:
    assert common_prefix_length((1, 2, 3, 4), (1, 2, 9, 4)) == 2
    assert common_prefix_length((1, 2), (1, 2, 3)) == 2
    assert common_prefix_length((1,), (2,)) == common_prefix_length((), (2,)) == 0
