"""Tests of the conditions for prefix sharing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from mllm_msr.models.loading import load_model
from mllm_msr.models.prefix_support import (
    can_share_prefixes,
    common_prefix_length,
    prefix_support,
    why_not_continuous,
)

Checkpoint = Callable[[str], Path]


@pytest.mark.parametrize(
    ("family", "kinds", "window"),
    [
        ("llama", {"full_attention"}, 0),
        ("qwen2_5_vl", {"full_attention"}, 0),
        ("gemma4", {"full_attention", "sliding_attention"}, 64),
        ("qwen3_5", {"full_attention", "linear_attention"}, 0),
        ("lfm2", {"full_attention", "conv"}, 0),
    ],
)
def test_the_kinds_of_layers_are_read_from_the_configuration(
    family: str, kinds: set[str], window: int, tiny_checkpoint: Checkpoint
) -> None:
    support = prefix_support(transformers.AutoConfig.from_pretrained(tiny_checkpoint(family)))
    assert support.reason == ""
    assert support.layer_types == kinds
    assert support.window == window
    assert support.is_recurrent == (family in {"qwen3_5", "lfm2"})


def test_models_that_no_test_covers_do_not_share_prefixes(tiny_checkpoint: Checkpoint) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny_checkpoint("paligemma"))
    assert prefix_support(config).reason == "no test covers the model type gemma2, paligemma"
    assert not can_share_prefixes(config)
    wrapped = transformers.LlavaConfig(text_config=transformers.MptConfig())
    assert prefix_support(wrapped).reason == "no test covers the model type mpt"
    layers = transformers.Qwen2Config(num_hidden_layers=1, layer_types=["chunked_attention"])
    assert prefix_support(layers).reason == ("no test covers layers of the kind chunked_attention")


def test_sliding_windows_share_prefixes_and_dynamic_rope_does_not() -> None:
    assert prefix_support(transformers.MistralConfig(sliding_window=None)).window == 0
    window = transformers.LlavaConfig(text_config=transformers.MistralConfig(sliding_window=4096))
    assert prefix_support(window).window == 4096
    assert prefix_support(window).layer_types == {"sliding_attention"}
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    config = transformers.LlamaConfig(rope_parameters=dynamic)
    assert prefix_support(config).reason == (
        "its rotary embeddings (dynamic) depend on the length of the sequence"
    )
    by_layer = {"full_attention": dynamic, "sliding_attention": {"rope_type": "default"}}
    assert not can_share_prefixes(transformers.Gemma3TextConfig(rope_parameters=by_layer))


def test_continuous_decoding_needs_states_of_single_tokens_and_masks(
    tiny_checkpoint: Checkpoint,
) -> None:
    def load(family: str, **options: Any) -> Any:
        return load_model(str(tiny_checkpoint(family)), device="cpu", **options).model

    assert why_not_continuous(load("qwen2_5_vl")) == ""
    assert "recurrent layers" in why_not_continuous(load("lfm2"))
    assert "model type" in why_not_continuous(load("mllama"))
    flash = load("llama")
    flash.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2 accepts no mask" in why_not_continuous(flash)


def test_common_prefix_ends_at_the_first_difference() -> None:
    assert common_prefix_length((1, 2, 3, 4), (1, 2, 9, 4)) == 2
    assert common_prefix_length((1, 2), (1, 2, 3)) == 2
    assert common_prefix_length((1,), (2,)) == common_prefix_length((), (2,)) == 0
