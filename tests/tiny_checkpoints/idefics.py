"""Idefics 3 and SmolVLM: images in tiles with row and column tokens, Llama decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import transformers

from tiny_checkpoints._parts import (
    VISION,
    image_processor,
    llama_config,
    make_tokenizer,
    save,
    vision_family,
)

_TEMPLATE: Final = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def _write(
    folder: Path,
    config_class: type[transformers.PretrainedConfig],
    model_class: type[transformers.PreTrainedModel],
    images: transformers.BaseImageProcessor,
) -> None:
    marks = ["<|im_start|>", "<image>", "<fake_token_around_image>", "<global-img>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = make_tokenizer(marks, bos=None, eos="<end_of_utterance>", pad="<|im_end|>")
    config = config_class(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config=llama_config(tokenizer).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    processor = transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=_TEMPLATE
    )
    save(model_class, config, processor, folder)


@vision_family
def smolvlm(folder: Path) -> None:
    """Write SmolVLM: Idefics 3's image splitting with pixel shuffle."""
    images = image_processor(
        "smolvlm",
        "SmolVLMImageProcessorPil",
        size={"longest_edge": 64},
        max_image_size={"longest_edge": 32},
    )
    _write(folder, transformers.SmolVLMConfig, transformers.SmolVLMForConditionalGeneration, images)


@vision_family
def idefics3(folder: Path) -> None:
    """Write Idefics 3."""
    images = image_processor(
        "idefics3",
        "Idefics3ImageProcessorPil",
        size={"longest_edge": 64},
        max_image_size={"longest_edge": 32},
    )
    _write(
        folder, transformers.Idefics3Config, transformers.Idefics3ForConditionalGeneration, images
    )
