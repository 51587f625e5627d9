"""Checkpoints of the speed benchmarks: two real small models, and models with random weights.

The values of the weights affect speed only through the length of the answers: random models always
generate up to the token limit. Random weights are drawn for each run and deleted afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks import _qwen3_vl, _smolvlm
from mllm_msr.backends.smollm import SmolLMBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import UnknownNameError

PRETRAINED: Final = "smollm"

_SPECIAL_TOKENS: Final = ("<pad>", "<s>", "</s>", "<image>")
_TEMPLATE: Final = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] + '</s>' }}{% endfor %}"
    "{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a LLaVA-NeXT model with a CLIP vision tower and a Mistral decoder.

    Attributes:
        width: Hidden size of the decoder.
        inner: Hidden size of its feed-forward layers.
        layers: Number of its layers.
        heads: Number of its attention heads.
        key_heads: Number of its key and value heads.
        vocabulary: Size of its token embedding, including unused rows.
        tower: Hidden size, feed-forward size, layers and attention heads of the vision tower.
        tile: Edge length of a tile, in pixels.
        patch: Edge length of a patch, in pixels.
    """

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tower: tuple[int, int, int, int]
    tile: int
    patch: int = 14


SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "tiny": Shape(64, 128, 2, 2, 1, 1024, (64, 128, 2, 2), 28, 7),
        # 134 million parameters, 336 tokens per image.
        "middle": Shape(768, 2048, 12, 12, 4, 8192, (512, 2048, 12, 8), 112),
        # LLaVA-v1.6-mistral-7b.
        "7b": Shape(4096, 14336, 32, 32, 8, 32064, (1024, 4096, 24, 16), 336),
    }
)


def make_checkpoint(
    shapes: str, folder: Path, *, device: str, dtype: str, texts: Iterable[str]
) -> str:
    """Create a checkpoint with random weights, unless a real model is requested.

    Args:
        shapes: "demo" for the demo model, "smollm" for the pretrained model of the extra `small`, a
            key of `SHAPES`, or a model's name: a key of `_smolvlm.SIZES` or `_qwen3_vl.SIZES`.
        folder: New folder for random weights.
        device: Device on which they are drawn.
        dtype: Data type of the weights.
        texts: Texts of the prompts, to train a tokenizer on.

    Returns:
        The folder of the checkpoint.

    Raises:
        UnknownNameError: `shapes` is unknown.
        BackendError: A package of the pretrained model is missing.
    """
    if shapes == "demo":
        return str(weights_folder())
    if shapes == PRETRAINED:
        return SmolLMBackend.trainable_checkpoint()
    names = ("demo", PRETRAINED, *SHAPES, *_smolvlm.SIZES, *_qwen3_vl.SIZES)
    if shapes not in names:
        raise UnknownNameError(f"Unknown shapes {shapes!r}. Available: {', '.join(names)}.")
    if shapes in SHAPES:
        shape = SHAPES[shapes]
        tokenizer = _tokenizer(texts, shape.vocabulary)
        config = _config(shape, tokenizer)
        processor = _processor(config, tokenizer)
    elif shapes in _qwen3_vl.SIZES:
        vocabulary = _qwen3_vl.SIZES[shapes].vocabulary
        tokenizer = _tokenizer(texts, vocabulary, _qwen3_vl.MARKS, image=_qwen3_vl.IMAGE)
        config = _qwen3_vl.make_config(shapes, tokenizer)
        processor = _qwen3_vl.make_processor(shapes, tokenizer, _TEMPLATE)
    else:
        tokenizer = _tokenizer(texts, _smolvlm.VOCABULARY, _smolvlm.MARKS)
        config = _smolvlm.make_config(shapes, tokenizer)
        processor = _smolvlm.make_processor(tokenizer, _TEMPLATE)
    _random_model(config, device=device, dtype=getattr(torch, dtype)).save_pretrained(folder)
    processor.save_pretrained(folder)
    if shapes in _qwen3_vl.SIZES:
        _qwen3_vl.write_video_settings(folder)
    return str(folder)


def _tokenizer(
    texts: Iterable[str], vocabulary: int, marks: Sequence[str] = (), *, image: str = "<image>"
) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*_SPECIAL_TOKENS, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*texts, *["yes", "no"] * 50], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": image},
        chat_template=_TEMPLATE,
    )


def _config(shape: Shape, tokenizer: Any) -> Any:
    width, inner, layers, heads = shape.tower
    tile = shape.tile
    return transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=tile,
            patch_size=shape.patch,
            projection_dim=width,
        ),
        text_config=transformers.MistralConfig(
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            vocab_size=shape.vocabulary,
            max_position_embeddings=8192,
            sliding_window=None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[
            [tile, 2 * tile], [2 * tile, tile], [2 * tile, 2 * tile], [3 * tile, tile],
            [tile, 3 * tile],
        ],
        vision_feature_layer=-2,
    )  # fmt: skip


def _random_model(config: Any, *, device: str, dtype: torch.dtype) -> Any:
    """Create a model with random weights that keep hidden states from vanishing or exploding."""
    with torch.device(device):
        torch.manual_seed(0)
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=1 / math.sqrt(weight[0].numel()))
    return model


def _processor(config: Any, tokenizer: Any) -> Any:
    module = transformers.models.llava_next.image_processing_pil_llava_next
    tile = config.vision_config.image_size
    return transformers.LlavaNextProcessor(
        module.LlavaNextImageProcessorPil(
            size={"shortest_edge": tile},
            crop_size={"height": tile, "width": tile},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )
