"""Random checkpoints with the shapes of SmolVLM2, one tile per image."""

from __future__ import annotations

from typing import Any, Final

import transformers
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

# Sizes of the decoder: hidden, feed-forward, layers, attention heads, key and value heads.
SIZES: Final = {
    "smolvlm2-256m": (576, 1536, 30, 9, 3),
    "smolvlm2-500m": (960, 2560, 32, 15, 5),
}
VOCABULARY: Final = 49_280
MARKS: Final = ("<fake_token_around_image>", "<global-img>")
_TILE: Final = 512
_SCALE: Final = 4
_PATCH: Final = 16


def make_config(name: str, tokenizer: Any) -> Any:
    """Return the configuration of a model for a tokenizer with `MARKS`.

    Args:
        name: A key of `SIZES`.
        tokenizer: The tokenizer.
    """
    hidden, inner, layers, heads, key_heads = SIZES[name]
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
        **ids,
    )
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": _TILE,
        "patch_size": _PATCH,
    }
    return transformers.SmolVLMConfig(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=_SCALE,
        **ids,
    )


def make_processor(tokenizer: Any, template: str) -> Any:
    """Return the processor of these models. An image is one tile, as in the presets.

    Args:
        tokenizer: A tokenizer with `MARKS`.
        template: Chat template.
    """
    return transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": _TILE},
            max_image_size={"longest_edge": _TILE},
            do_image_splitting=False,
        ),
        tokenizer,
        image_seq_len=(_TILE // _PATCH // _SCALE) ** 2,
        chat_template=template,
    )
