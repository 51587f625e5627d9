"""Models that cut images into tiles: InternVL, Ovis 2, Aya Vision and Llama 3.2 Vision."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import transformers

from mllm_msr.models.processors import VideoStub, without_video
from tiny_checkpoints._parts import (
    TEXT,
    VISION,
    chatml,
    image_processor,
    make_tokenizer,
    save,
    special_ids,
    vision_family,
)

_AYA_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}{{ '<|TURN|>' + message['role'] + ':' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|END|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|TURN|>assistant:' }}{% endif %}"
)
# Llama 3.2 Vision rejects a system turn in dialogues with images.
_MLLAMA_TEMPLATE: Final = (
    "{{ bos_token }}{% set ns = namespace(images=false) %}"
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set ns.images = true %}{% endif %}"
    "{% endfor %}{% endfor %}{% for message in messages %}"
    "{% if ns.images and message['role'] == 'system' %}"
    "{{ raise_exception('Prompting with images is incompatible with system messages.') }}"
    "{% endif %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@vision_family
def internvl(folder: Path) -> None:
    """Write InternVL 3.5: tiles and a thumbnail, pixel shuffle, Qwen3 decoder."""
    marks = ["<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    tokenizer = make_tokenizer(
        marks,
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    text = transformers.Qwen3Config(**TEXT, head_dim=12, **special_ids(tokenizer))
    config = transformers.InternVLConfig(
        text_config=text.to_dict(),
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = image_processor(
        "got_ocr2",
        "GotOcr2ImageProcessorPil",
        size={"height": 28, "width": 28},
        min_patches=1,
        max_patches=4,
        crop_to_patches=True,
    )
    processor = without_video(transformers.InternVLProcessor)(
        images,
        tokenizer,
        image_seq_length=4,
        video_processor=VideoStub(),
        chat_template=chatml("<IMG_CONTEXT>\\n"),
    )
    save(transformers.InternVLForConditionalGeneration, config, processor, folder)


@vision_family
def ovis2(folder: Path) -> None:
    """Write Ovis 2: image tokens are mixtures of a visual vocabulary, Qwen2 decoder."""
    indicators = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    marks = ["<|im_start|>", "<image>", "<IMG_ATOM>", *indicators]
    tokenizer = make_tokenizer(marks, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    config = transformers.Ovis2Config(
        text_config=transformers.Qwen2Config(**TEXT, **special_ids(tokenizer)),
        vision_config={
            **VISION,
            "image_size": 28,
            "patch_size": 7,
            "vocab_size": 64,
            "hidden_stride": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(indicators),
        vocab_size=len(tokenizer),
        hidden_size=TEXT["hidden_size"],
    )
    images = image_processor(
        "ovis2",
        "Ovis2ImageProcessorPil",
        size={"height": 28, "width": 28},
        crop_to_patches=True,
        max_patches=4,
    )
    processor = transformers.Ovis2Processor(
        images,
        tokenizer,
        chat_template=chatml("<image>\\n"),
        image_token="<image>",
        image_seq_length=4,
    )
    save(transformers.Ovis2ForConditionalGeneration, config, processor, folder)


@vision_family
def aya_vision(folder: Path) -> None:
    """Write Aya Vision: SigLIP tower, tiles, Cohere 2 decoder with a sliding window."""
    marks = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"]
    marks += ["<|TURN|>", "TILE_GLOBAL", *(f"TILE_{tile}" for tile in range(1, 13))]
    tokenizer = make_tokenizer(marks, bos="<bos>", eos="<|END|>", pad="<pad>")
    text = transformers.Cohere2Config(
        **TEXT,
        **special_ids(tokenizer),
        head_dim=12,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = transformers.AyaVisionConfig(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(
            **VISION, image_size=32, patch_size=8, vision_use_head=False
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    images = image_processor(
        "got_ocr2",
        "GotOcr2ImageProcessorPil",
        size={"height": 32, "width": 32},
        min_patches=1,
        max_patches=4,
        crop_to_patches=True,
    )
    processor = transformers.AyaVisionProcessor(
        images,
        tokenizer,
        patch_size=8,
        img_size=32,
        downsample_factor=2,
        chat_template=_AYA_TEMPLATE,
    )
    save(transformers.AyaVisionForConditionalGeneration, config, processor, folder)


@vision_family
def mllama(folder: Path) -> None:
    """Write Llama 3.2 Vision: cross attention to the image instead of image tokens."""
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|image|>"]
    tokenizer = make_tokenizer(marks, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|pad|>")
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = transformers.MllamaConfig(
        text_config={
            **TEXT,
            **special_ids(tokenizer),
            "num_hidden_layers": 4,
            "cross_attention_layers": [1, 3],
            "rope_parameters": rope,
        },
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "attention_heads": 2,
            "intermediate_size": 64,
            "vision_output_dim": 3 * 32,
            "image_size": 28,
            "patch_size": 7,
            "intermediate_layers_indices": [0, 1],
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    images = image_processor(
        "mllama",
        "MllamaImageProcessorPil",
        size={"height": 28, "width": 28},
        max_image_tiles=4,
    )
    processor = transformers.MllamaProcessor(images, tokenizer, chat_template=_MLLAMA_TEMPLATE)
    save(transformers.MllamaForConditionalGeneration, config, processor, folder)
