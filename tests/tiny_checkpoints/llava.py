"""LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision: a vision tower, a projector and a decoder.

Also LLaVA with EfficientNet-Lite, the structure of the backend `smollm`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import transformers

from mllm_msr.models.efficientnet_lite import EfficientNetLiteConfig
from mllm_msr.models.processors import VideoStub, without_video
from tiny_checkpoints._parts import (
    TEXT,
    VISION,
    chatml,
    image_processor,
    llama_config,
    make_tokenizer,
    save,
    special_ids,
    vision_family,
)

_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ASSISTANT:' }}"
    "{% for part in message['content'] %}{{ ' ' + part['text'] + '</s>' }}{% endfor %}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


@vision_family
def llava(folder: Path) -> None:
    """Write LLaVA 1.5: CLIP tower, one token per patch, Llama decoder."""
    tokenizer = make_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            **VISION, image_size=28, patch_size=7, projection_dim=32
        ),
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    processor = transformers.LlavaProcessor(
        image_processor(
            "llava",
            "LlavaImageProcessorPil",
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
        ),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )
    save(transformers.LlavaForConditionalGeneration, config, processor, folder)


@vision_family
def llava_efficientnet(folder: Path) -> None:
    """Write LLaVA with an EfficientNet-Lite tower and a grid of 2 x 2 image tokens."""
    marks = ["<|im_start|>", "<image>"]
    tokenizer = make_tokenizer(marks, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>")
    vision = EfficientNetLiteConfig(
        image_size=36,
        stem_size=8,
        stages=[[1, 3, 1, 1, 8], [2, 5, 2, 2, 12], [2, 3, 2, 2, 16]],
        hidden_size=32,
        token_grid=2,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = transformers.LlavaProcessor(
        image_processor("vit", "ViTImageProcessorPil", size={"height": 36, "width": 36}),
        tokenizer,
        patch_size=18,
        vision_feature_select_strategy="full",
        chat_template=chatml("<image>\\n"),
    )
    save(transformers.LlavaForConditionalGeneration, config, processor, folder)


@vision_family
def llava_next(folder: Path) -> None:
    """Write LLaVA-NeXT: CLIP tower, any-resolution tiles, one token per patch, Llama decoder."""
    tokenizer = make_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(
            **VISION, image_size=28, patch_size=7, projection_dim=32
        ),
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_feature_layer=-2,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor(
            "llava_next",
            "LlavaNextImageProcessorPil",
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )
    save(transformers.LlavaNextForConditionalGeneration, config, processor, folder)


@vision_family
def llava_onevision(folder: Path) -> None:
    """Write LLaVA-OneVision: SigLIP tower, any-resolution tiles, Qwen2 decoder."""
    marks = ["<|im_start|>", "<image>", "<video>"]
    tokenizer = make_tokenizer(marks, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    grids = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(
            **VISION, image_size=28, patch_size=7, vision_use_head=False
        ),
        text_config=transformers.Qwen2Config(**TEXT, **special_ids(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
    )
    processor = without_video(transformers.LlavaOnevisionProcessor)(
        image_processor(
            "llava_onevision",
            "LlavaOnevisionImageProcessorPil",
            size={"height": 28, "width": 28},
            image_grid_pinpoints=grids,
        ),
        tokenizer,
        video_processor=VideoStub(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml("<image>\\n"),
    )
    save(transformers.LlavaOnevisionForConditionalGeneration, config, processor, folder)
