"""Qwen-VL models: patch grids of native resolution and multimodal rotary positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import transformers

from mllm_msr.models.processors import VideoStub, without_video
from tiny_checkpoints._parts import (
    TEXT,
    chatml,
    image_processor,
    make_tokenizer,
    save,
    special_ids,
    vision_family,
)

_MARKS: Final = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_TEMPLATE: Final = chatml("<|vision_start|><|image_pad|><|vision_end|>")
# Vision tower of the third and later generations.
_VISION_3: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": TEXT["hidden_size"],
    "num_position_embeddings": 64,
}


def _write(
    folder: Path,
    config_class: type[transformers.PretrainedConfig],
    model_class: type[transformers.PreTrainedModel],
    processor_class: type[transformers.ProcessorMixin],
    *,
    vision: dict[str, Any],
    text: dict[str, Any] | None = None,
    rotary: dict[str, Any] | None = None,
    template: str = _TEMPLATE,
) -> None:
    """Write a checkpoint of one of the Qwen-VL classes.

    Args:
        folder: Folder to create.
        config_class: Class of the configuration.
        model_class: Class of the model.
        processor_class: Class of the processor.
        vision: Configuration of the vision tower.
        text: Configuration of the decoder where it differs from `TEXT`.
        rotary: Additional parameters of the rotary positions.
        template: Chat template.
    """
    marks = ["<|im_start|>", *_MARKS.values()]
    tokenizer = make_tokenizer(marks, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4}
    config = config_class(
        text_config={
            **TEXT,
            **special_ids(tokenizer),
            "rope_parameters": {**rope, **(rotary or {})},
            **(text or {}),
        },
        vision_config=vision,
        **{name: tokenizer.convert_tokens_to_ids(mark) for name, mark in _MARKS.items()},
    )
    images = image_processor(
        "qwen2_vl",
        "Qwen2VLImageProcessorPil",
        patch_size=8,
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
    )
    processor = without_video(processor_class)(
        images, tokenizer, video_processor=VideoStub(), chat_template=template
    )
    save(model_class, config, processor, folder)


@vision_family
def qwen2_vl(folder: Path) -> None:
    """Write Qwen2-VL."""
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": TEXT["hidden_size"],
        "mlp_ratio": 2,
        "num_heads": 2,
        "patch_size": 8,
    }
    _write(
        folder,
        transformers.Qwen2VLConfig,
        transformers.Qwen2VLForConditionalGeneration,
        transformers.Qwen2VLProcessor,
        vision=vision,
    )


@vision_family
def qwen2_5_vl(folder: Path) -> None:
    """Write Qwen2.5-VL: window attention in the vision tower."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "window_size": 32,
        "out_hidden_size": TEXT["hidden_size"],
        "fullatt_block_indexes": [1],
    }
    _write(
        folder,
        transformers.Qwen2_5_VLConfig,
        transformers.Qwen2_5_VLForConditionalGeneration,
        transformers.Qwen2_5_VLProcessor,
        vision=vision,
    )


@vision_family
def qwen3_vl(folder: Path) -> None:
    """Write Qwen3-VL: interleaved rotary positions, vision features in several decoder layers."""
    _write(
        folder,
        transformers.Qwen3VLConfig,
        transformers.Qwen3VLForConditionalGeneration,
        transformers.Qwen3VLProcessor,
        vision={**_VISION_3, "depth": 4, "deepstack_visual_indexes": [1, 2]},
        text={"head_dim": 12, "num_hidden_layers": 4},
        rotary={"mrope_interleaved": True},
    )


@vision_family
def qwen3_vl_moe(folder: Path) -> None:
    """Write Qwen3-VL with a mixture of experts."""
    experts = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    _write(
        folder,
        transformers.Qwen3VLMoeConfig,
        transformers.Qwen3VLMoeForConditionalGeneration,
        transformers.Qwen3VLProcessor,
        vision={**_VISION_3, "depth": 4, "deepstack_visual_indexes": [1, 2]},
        text={"head_dim": 12, "num_hidden_layers": 3, **experts},
        rotary={"mrope_interleaved": True},
    )


@vision_family
def qwen3_5(folder: Path) -> None:
    """Write Qwen3.5: three of four layers are linear attention; the template opens a thought."""
    linear = {
        "linear_key_head_dim": 12,
        "linear_value_head_dim": 12,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    thought = (
        "{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and not enable_thinking "
        "else '<think>\n' }}"
    )
    _write(
        folder,
        transformers.Qwen3_5Config,
        transformers.Qwen3_5ForConditionalGeneration,
        transformers.Qwen3VLProcessor,
        vision={**_VISION_3, "depth": 2},
        text={"head_dim": 24, "num_hidden_layers": 4, **linear},
        rotary={"mrope_interleaved": True, "partial_rotary_factor": 0.5},
        template=_TEMPLATE.removesuffix("{% endif %}") + thought + "{% endif %}",
    )
