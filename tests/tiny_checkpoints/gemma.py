"""Gemma 3, Gemma 4 and PaliGemma 2."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import transformers

from mllm_msr.models.processors import VideoStub, without_video
from tiny_checkpoints._parts import (
    TEXT,
    VISION,
    image_processor,
    make_tokenizer,
    save,
    special_ids,
    vision_family,
)


def _template(image: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}"
        "{{ '\n' }}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        f"{{{{ '{image}' }}}}"
        "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
        "{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )


_PALIGEMMA_TEMPLATE: Final = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{{ '\n' }}"
)


@vision_family
def gemma3(folder: Path) -> None:
    """Write Gemma 3: SigLIP tower, pooled image tokens, bidirectional attention within an image."""
    marks = ["<start_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = make_tokenizer(
        marks,
        bos="<bos>",
        eos="<end_of_turn>",
        pad="<pad>",
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    text = transformers.Gemma3TextConfig(
        **TEXT,
        **special_ids(tokenizer),
        head_dim=12,
        sliding_window=64,
        query_pre_attn_scalar=12,
    )
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=32, patch_size=8),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = transformers.Gemma3Processor(
        image_processor("gemma3", "Gemma3ImageProcessorPil", size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=4,
        chat_template=_template("<start_of_image>"),
    )
    save(transformers.Gemma3ForConditionalGeneration, config, processor, folder)


def _write_gemma4(folder: Path, bidirectional: str | None) -> None:
    named = {
        "boi_token": "<boi>",
        "eoi_token": "<eoi>",
        "image_token": "<image_soft>",
        "audio_token": "<audio_soft>",
        "boa_token": "<boa>",
        "eoa_token": "<eoa>",
    }
    marks = ["<start_of_turn>", "<|video|>", *named.values()]
    tokenizer = make_tokenizer(marks, bos="<bos>", eos="<end_of_turn>", pad="<pad>", named=named)
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **TEXT,
        **special_ids(tokenizer),
        "num_hidden_layers": 4,
        "head_dim": 12,
        "global_head_dim": 12,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": len(tokenizer),
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "use_bidirectional_attention": bidirectional,
    }
    vision = {
        **VISION,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 8,
        "pooling_kernel_size": 2,
        "position_embedding_size": 256,
    }
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        boi_token_id=ids("<boi>"),
        eoi_token_id=ids("<eoi>"),
        image_token_id=ids("<image_soft>"),
        video_token_id=ids("<|video|>"),
        boa_token_id=ids("<boa>"),
        eoa_token_index=ids("<eoa>"),
        audio_token_id=ids("<audio_soft>"),
    )
    images = image_processor(
        "gemma4",
        "Gemma4ImageProcessorPil",
        patch_size=8,
        pooling_kernel_size=2,
        max_soft_tokens=70,
    )
    processor = without_video(transformers.Gemma4Processor)(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=VideoStub(),
        chat_template=_template("<image_soft>"),
        image_seq_length=70,
    )
    save(transformers.Gemma4ForConditionalGeneration, config, processor, folder)


@vision_family
def gemma4(folder: Path) -> None:
    """Write Gemma 4: inputs of each layer, shared keys and values, sliding windows."""
    _write_gemma4(folder, None)


@vision_family
def gemma4_bidirectional(folder: Path) -> None:
    """Write Gemma 4 with bidirectional attention within an image, as in its larger sizes."""
    _write_gemma4(folder, "vision")


@vision_family
def paligemma(folder: Path) -> None:
    """Write PaliGemma 2, with a chat template; the prompt attends to itself in both directions."""
    tokenizer = make_tokenizer(["<image>"], bos="<bos>", eos="<eos>", pad="<pad>")
    text = transformers.Gemma2Config(
        **TEXT,
        **special_ids(tokenizer),
        head_dim=12,
        sliding_window=64,
        query_pre_attn_scalar=12,
    )
    config = transformers.PaliGemmaConfig(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(
            **VISION, image_size=32, patch_size=8, vision_use_head=False
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=TEXT["hidden_size"],
        hidden_size=TEXT["hidden_size"],
    )
    images = image_processor("siglip", "SiglipImageProcessorPil", size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(
        images, tokenizer, chat_template=_PALIGEMMA_TEMPLATE
    )
    save(transformers.PaliGemmaForConditionalGeneration, config, processor, folder)
