from __future__ import annotations

import pytest
import transformers

from mllm_msr.models.families import is_tested, lora_projections


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (transformers.LlamaConfig(), ()),
        (transformers.Qwen3VLConfig(), ()),
        (transformers.Qwen3_5Config(), ("in_proj_qkv", "in_proj_z", "out_proj")),
        (transformers.Glm4vConfig(), ("gate_up_proj",)),
        (transformers.Lfm2Config(), ("in_proj", "out_proj", "w1", "w2", "w3")),
    ],
)
def test_lora_adapts_projections_and_the_layers_of_the_familys_own(
    config: transformers.PretrainedConfig, own: tuple[str, ...]
) -> None:
    common = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert lora_projections(config) == common + own


def test_types_without_a_tiny_checkpoint_are_not_tested() -> None:
    assert is_tested(transformers.Qwen3VLConfig())
    assert not is_tested(transformers.DeepseekVLConfig())
