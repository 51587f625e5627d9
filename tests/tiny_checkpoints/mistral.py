"""Pixtral and Mistral 3: images of native resolution with row breaks, Mistral decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import transformers

from tiny_checkpoints._parts import (
    TEXT,
    VISION,
    make_tokenizer,
    save_with_files,
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


def _save(
    architecture: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tokenizer: transformers.PreTrainedTokenizerFast,
    folder: Path,
    *,
    merge: int,
) -> None:
    save_with_files(
        architecture,
        config,
        tokenizer,
        folder,
        processor="PixtralProcessor",
        image_processor={
            "image_processor_type": "PixtralImageProcessor",
            "size": {"longest_edge": 64},
            "patch_size": {"height": 8, "width": 8},
        },
        template=_TEMPLATE,
        patch_size=8,
        spatial_merge_size=merge,
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
    _save(transformers.Mistral3ForConditionalGeneration, config, tokenizer, folder, merge=2)


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
    _save(transformers.LlavaForConditionalGeneration, config, tokenizer, folder, merge=1)
