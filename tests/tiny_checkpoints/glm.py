"""GLM-4.1V and GLM-4.6V: thinking models with multimodal rotary positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import transformers

from mllm_msr.models.processors import VideoStub, without_video
from tiny_checkpoints._parts import (
    TEXT,
    image_processor,
    make_tokenizer,
    save,
    special_ids,
    vision_family,
)

_MARKS: Final = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
_OTHER_MARKS: Final = (
    *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>"),
)
_TEMPLATE: Final = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|begin_of_image|><|image|><|end_of_image|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{{ '<think></think>\n' if enable_thinking is defined and not enable_thinking else '' }}"
    "{% endif %}"
)
_VISION: Final = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "out_hidden_size": TEXT["hidden_size"],
    "intermediate_size": 64,
}


def _write(folder: Path, name: str, *, text_type: str = "", vision_type: str = "") -> None:
    """Write a checkpoint of the classes whose names begin with `name`."""
    tokenizer = make_tokenizer(
        [*_OTHER_MARKS, *_MARKS.values()],
        bos=None,
        eos="<|endoftext|>",
        pad="<|pad|>",
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
    )
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4}
    text: dict[str, Any] = {
        **TEXT,
        **special_ids(tokenizer),
        "rope_parameters": {**rope, "partial_rotary_factor": 1.0},
    }
    config = getattr(transformers, f"{name}Config")(
        text_config={**text, "model_type": text_type} if text_type else text,
        vision_config={**_VISION, "model_type": vision_type} if vision_type else _VISION,
        **{key: tokenizer.convert_tokens_to_ids(mark) for key, mark in _MARKS.items()},
    )
    images = image_processor(
        name.lower(),
        f"{name}ImageProcessorPil",
        patch_size=8,
        size={"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 64 * 64},
    )
    processor_class = without_video(getattr(transformers, f"{name}Processor"))
    processor = processor_class(
        images, tokenizer, video_processor=VideoStub(), chat_template=_TEMPLATE
    )
    save(getattr(transformers, f"{name}ForConditionalGeneration"), config, processor, folder)


@vision_family
def glm4v(folder: Path) -> None:
    """Write GLM-4.1V."""
    _write(folder, "Glm4v")


@vision_family
def glm46v(folder: Path) -> None:
    """Write GLM-4.6V, which uses the tower and the decoder of GLM-4.1V."""
    _write(folder, "Glm46V", text_type="glm4v_text", vision_type="glm4v_vision")
