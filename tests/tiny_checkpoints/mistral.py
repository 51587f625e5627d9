"""Pixtral and Mistral 3: images of native resolution with row breaks, Mistral decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import transformers

from tiny_checkpoints._parts import (
    TEXT,
    VISION,
    image_processor,
    make_tokenizer,
    save,
    special_ids,
    vision_family,
)

_MARKS: Final = [
    *("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
]
_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '[/INST]' }}"
    "{% elif message['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + message['content'][0]['text'] + '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{ message['content'][0]['text'] + eos_token }}{% endif %}{% endfor %}"
)


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    return make_tokenizer(_MARKS, bos="<s>", eos="</s>", pad="<pad>")


def _decoder(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.MistralConfig:
    return transformers.MistralConfig(
        **TEXT, head_dim=12, sliding_window=None, **special_ids(tokenizer)
    )


def _processor(
    tokenizer: transformers.PreTrainedTokenizerFast, *, merge: int
) -> transformers.PixtralProcessor:
    return transformers.PixtralProcessor(
        image_processor(
            "pixtral",
            "PixtralImageProcessorPil",
            size={"longest_edge": 64},
            patch_size={"height": 8, "width": 8},
        ),
        tokenizer,
        patch_size=8,
        spatial_merge_size=merge,
        chat_template=_TEMPLATE,
    )


@vision_family
def mistral3(folder: Path) -> None:
    """Write Mistral 3: Pixtral tower, 2 x 2 patches per token."""
    tokenizer = _tokenizer()
    config = transformers.Mistral3Config(
        text_config=_decoder(tokenizer),
        vision_config=transformers.PixtralVisionConfig(**VISION, image_size=64, patch_size=8),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    processor = _processor(tokenizer, merge=2)
    save(transformers.Mistral3ForConditionalGeneration, config, processor, folder)


@vision_family
def pixtral(folder: Path) -> None:
    """Write Pixtral, which is stored as LLaVA with a Pixtral tower."""
    tokenizer = _tokenizer()
    config = transformers.LlavaConfig(
        text_config=_decoder(tokenizer),
        vision_config=transformers.PixtralVisionConfig(**VISION, image_size=64, patch_size=8),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = _processor(tokenizer, merge=1)
    save(transformers.LlavaForConditionalGeneration, config, processor, folder)
