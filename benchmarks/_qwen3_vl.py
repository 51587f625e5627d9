"""Random checkpoints with the shapes of Qwen3-VL: DeepStack, interleaved 3-D rotary positions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_msr.models.processors import VideoStub, without_video

IMAGE: Final = "<|image_pad|>"
_IDS: Final = {
    "image_token_id": IMAGE,
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
MARKS: Final = tuple(_IDS.values())
_PATCH: Final = 16
_MERGED: Final = 2  # patches per edge of the square that becomes one token


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        text: Hidden size, feed-forward size, layers, attention heads, key and value heads, and size
            of a head of the decoder.
        rotations: Number of frequencies of the rotary embedding for time, height and width.
        vocabulary: Size of the token embedding, which is also the output layer.
        tower: Hidden size, feed-forward size, layers and attention heads of the vision tower.
        deepstack: Layers of the tower whose features are added in the first layers of the decoder.
        positions: Number of learned positions of the tower.
        image_tokens: Maximum number of tokens of an image.
    """

    text: tuple[int, int, int, int, int, int]
    rotations: tuple[int, int, int]
    vocabulary: int
    tower: tuple[int, int, int, int]
    deepstack: tuple[int, ...]
    positions: int
    image_tokens: int


SIZES: Final = {
    # Qwen/Qwen3-VL-2B-Instruct, with the images of its preset.
    "qwen3-vl-2b": Sizes(
        text=(2048, 6144, 28, 16, 8, 128),
        rotations=(24, 20, 20),
        vocabulary=151_936,
        tower=(1024, 4096, 24, 16),
        deepstack=(5, 11, 17),
        positions=2304,
        image_tokens=320,
    ),
    "qwen3-vl-tiny": Sizes(
        text=(64, 128, 4, 4, 2, 32),
        rotations=(8, 4, 4),
        vocabulary=1024,
        tower=(64, 128, 4, 2),
        deepstack=(1, 2),
        positions=64,
        image_tokens=16,
    ),
}


def make_config(name: str, tokenizer: Any) -> Any:
    """Return the configuration of a model for a tokenizer with `MARKS`.

    Args:
        name: A key of `SIZES`.
        tokenizer: The tokenizer.
    """
    sizes = SIZES[name]
    hidden, inner, layers, heads, key_heads, head_size = sizes.text
    width, tower_inner, depth, tower_heads = sizes.tower
    text = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_size,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": list(sizes.rotations),
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": tower_inner,
        "depth": depth,
        "num_heads": tower_heads,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGED,
        "out_hidden_size": hidden,
        "num_position_embeddings": sizes.positions,
        "deepstack_visual_indexes": list(sizes.deepstack),
    }
    return transformers.Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in _IDS.items()},
    )


def make_processor(name: str, tokenizer: Any, template: str) -> Any:
    """Return the processor of a model, with at most `Sizes.image_tokens` per image.

    Args:
        name: A key of `SIZES`.
        tokenizer: A tokenizer with `MARKS`, whose image token is `IMAGE`.
        template: Chat template that prints "<image>" for an image.
    """
    area = (_PATCH * _MERGED) ** 2  # pixels of a token
    images = Qwen2VLImageProcessorPil(
        patch_size=_PATCH,
        merge_size=_MERGED,
        size={"shortest_edge": area, "longest_edge": SIZES[name].image_tokens * area},
    )
    return without_video(transformers.Qwen3VLProcessor)(
        images,
        tokenizer,
        video_processor=VideoStub(),
        chat_template=template.replace("<image>", f"<|vision_start|>{IMAGE}<|vision_end|>"),
    )


def write_video_settings(folder: Path) -> None:
    """Write the settings of the video processor, which vLLM loads even if there are no videos.

    Args:
        folder: Folder of the checkpoint.
    """
    settings = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "patch_size": _PATCH,
        "temporal_patch_size": 2,
        "merge_size": _MERGED,
        "size": {"shortest_edge": 4096, "longest_edge": 25_165_824},
    }
    path = folder / "video_preprocessor_config.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
