"""MiniCPM-V 4.6, Granite 4 Vision, LFM2-VL and Llama 4."""

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
    save_with_files,
    special_ids,
    vision_family,
)

_MINICPM_MARKS: Final = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


@vision_family
def minicpmv4_6(folder: Path) -> None:
    """Write MiniCPM-V 4.6: slices packed along the last axis, image numbers, Qwen3.5 decoder."""
    tokenizer = make_tokenizer(
        ["<|im_start|>", *_MINICPM_MARKS.values()],
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named=_MINICPM_MARKS,
    )
    config = transformers.MiniCPMV4_6Config(
        text_config={
            **TEXT,
            **special_ids(tokenizer),
            "model_type": "qwen3_5_text",
            "head_dim": 24,
            "num_hidden_layers": 4,
            "linear_key_head_dim": 12,
            "linear_value_head_dim": 12,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        vision_config={**VISION, "num_hidden_layers": 3, "image_size": 56, "patch_size": 7},
        insert_layer_id=1,
        image_size=56,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )
    images = image_processor(
        "minicpmv4_6",
        "MiniCPMV4_6ImageProcessorPil",
        max_slice_nums=4,
        scale_resolution=32,
        patch_size=7,
    )
    processor = without_video(transformers.MiniCPMV4_6Processor)(
        images, VideoStub(), tokenizer, chat_template=chatml("<|image_pad|>")
    )
    save(transformers.MiniCPMV4_6ForConditionalGeneration, config, processor, folder)


@vision_family
def granite4_vision(folder: Path) -> None:
    """Write Granite 4 Vision: features of several vision layers in several decoder layers."""
    tokenizer = make_tokenizer(["<|im_start|>", "<image>"], bos=None, eos="<|im_end|>", pad="<pad>")
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    config = transformers.Granite4VisionConfig(
        text_config={**TEXT, **special_ids(tokenizer), "num_hidden_layers": 4},
        vision_config={
            **VISION,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "model_type": "siglip_vision_model",
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
        },
        qformer_config={"intermediate_size": 64, "model_type": "blip_2_qformer"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="full",
        downsample_rate="2/4",
        deepstack_layer_map=[[-1, 0], [-2, 1]],
        spatial_target_layers=[0, 1, 2, 3],
    )
    images = image_processor(
        "llava_next",
        "LlavaNextImageProcessorPil",
        size={"height": 16, "width": 16},
        crop_size={"height": 16, "width": 16},
        image_grid_pinpoints=pinpoints,
    )
    processor = transformers.Granite4VisionProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        downsample_rate="2/4",
        chat_template=chatml("<image>\\n"),
    )
    save(transformers.Granite4VisionForConditionalGeneration, config, processor, folder)


@vision_family
def lfm2_vl(folder: Path) -> None:
    """Write LFM2-VL: SigLIP 2 tower of native resolution, convolutional decoder; torchvision."""
    marks = ["<|im_start|>", "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    marks += [f"<|img_row_{row}_col_{column}|>" for row in range(1, 4) for column in range(1, 4)]
    tokenizer = make_tokenizer(marks, bos="<bos>", eos="<|im_end|>", pad="<pad>")
    config = transformers.Lfm2VlConfig(
        text_config={
            **TEXT,
            **special_ids(tokenizer),
            "model_type": "lfm2",
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_multiple_of": 8,
        },
        vision_config={
            **VISION,
            "model_type": "siglip2_vision_model",
            "num_patches": 64,
            "patch_size": 8,
            "vision_use_head": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
    )
    save_with_files(
        transformers.Lfm2VlForConditionalGeneration,
        config,
        tokenizer,
        folder,
        processor="Lfm2VlProcessor",
        image_processor={
            "image_processor_type": "Lfm2VlImageProcessor",
            "encoder_patch_size": 8,
            "tile_size": 32,
            "max_tiles": 4,
            "min_image_tokens": 1,
            "max_image_tokens": 8,
            "max_num_patches": 64,
        },
        template="{{ bos_token }}" + chatml("<image>"),
    )


@vision_family
def llama4(folder: Path) -> None:
    """Write Llama 4: experts, chunked attention, tiles; torchvision."""
    marks = ["<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>"]
    marks += ["<|tile_x_separator|>", "<|tile_y_separator|>", "<|im_start|>"]
    tokenizer = make_tokenizer(marks, bos="<|begin_of_text|>", eos="<|eot|>", pad="<|pad|>")
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Llama4Config(
        text_config={
            **TEXT,
            **special_ids(tokenizer),
            "intermediate_size_mlp": 96,
            "head_dim": 12,
            "num_local_experts": 2,
            "attention_chunk_size": 512,
            "num_hidden_layers": 4,
        },
        vision_config={
            **VISION,
            "image_size": 28,
            "patch_size": 7,
            "intermediate_size": 32 * 4,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
        boi_token_index=ids("<|image_start|>"),
        eoi_token_index=ids("<|image_end|>"),
        image_token_index=ids("<|patch|>"),
    )
    save_with_files(
        transformers.Llama4ForConditionalGeneration,
        config,
        tokenizer,
        folder,
        processor="Llama4Processor",
        image_processor={
            "image_processor_type": "Llama4ImageProcessor",
            "size": {"height": 28, "width": 28},
            "max_patches": 4,
            "resize_to_max_canvas": False,
        },
        template="{{ bos_token }}" + chatml("<|image|>"),
        patch_size=7,
    )
