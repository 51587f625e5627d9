"""Parts of the demo model: configuration, tokenizer, processor and initial weights.

The model is a small LLaVA in standard Hugging Face classes: a SigLIP vision tower, a two-layer
projector, a Llama decoder, a byte-level BPE tokenizer and its own chat template. The pipeline loads
it with the same code as a full-size model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from recipes.demo_model.induction import can_copy, start_copying

PAD: Final = "<|pad|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
END: Final = "<|end|>"
IMAGE: Final = "<|image|>"
SPECIAL_TOKENS: Final = (PAD, USER, ASSISTANT, END, IMAGE)

CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|image|>' -}}"
    "{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def make_config(
    *,
    vocabulary: int,
    width: int = 320,
    layers: int = 4,
    heads: int = 8,
    inner: int = 864,
    vision_width: int = 192,
    vision_layers: int = 4,
    image_size: int = 96,
    patch_size: int = 16,
    context: int = 2048,
) -> LlavaConfig:
    """Return the configuration of a model; the defaults are those of the demo model.

    Args:
        vocabulary: Number of tokens.
        width: Hidden size of the decoder.
        layers: Layers of the decoder.
        heads: Attention heads of the decoder.
        inner: Inner size of the decoder's feed-forward layers.
        vision_width: Hidden size of the vision tower.
        vision_layers: Layers of the vision tower.
        image_size: Width and height of the input image in pixels.
        patch_size: Width and height of a patch in pixels.
        context: Maximum number of tokens.
    """
    vision = SiglipVisionConfig(
        hidden_size=vision_width,
        intermediate_size=4 * vision_width,
        num_hidden_layers=vision_layers,
        num_attention_heads=max(1, vision_width // 32),
        image_size=image_size,
        patch_size=patch_size,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index(END),
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        tie_word_embeddings=False,
        # The previous-token head of `induction` needs biases in queries and keys.
        attention_bias=True,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL_TOKENS.index(IMAGE),
        image_seq_length=(image_size // patch_size) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def make_tokenizer(texts: Iterable[str], *, vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: Training texts. A word must be frequent in them to become a single token.
        vocabulary: Number of tokens, special tokens included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={
            "image_token": IMAGE,
            "user_token": USER,
            "assistant_token": ASSISTANT,
        },
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast, config: LlavaConfig) -> LlavaProcessor:
    """Return the processor that converts dialogues and images to model inputs."""
    size = config.vision_config.image_size
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": size, "width": size}),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=0,
    )


def make_model(config: LlavaConfig, *, seed: int) -> LlavaForConditionalGeneration:
    """Return a model with initial weights.

    Weights have a standard deviation of 1/sqrt(fan-in), divided by sqrt(2 * layers) in layers that
    write to the residual stream; at these widths, training with the usual 0.02 is several times
    slower. Position embeddings of patches are initialized with sines and cosines, and some
    attention heads as induction heads (`induction`).

    Args:
        config: Result of `make_config`.
        seed: Seed of the weights; sets PyTorch's global generator.
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration._from_config(  # noqa: SLF001 - the public way reads files
        config, attn_implementation="eager"
    )
    depth = math.sqrt(2 * config.text_config.num_hidden_layers)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                fan_in = module.weight[0].numel()
                last = name.endswith(("o_proj", "out_proj", "down_proj", "fc2"))
                module.weight.normal_(std=fan_in**-0.5 / (depth if last else 1.0))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(std=0.5)
        _set_patch_positions(model, config.vision_config)
        # Output embeddings start as scaled input embeddings, so attended tokens can be copied.
        decoder = model.model.language_model
        model.lm_head.weight.copy_(0.2 * decoder.embed_tokens.weight)
        decoder.norm.weight.fill_(0.15)
        if can_copy(config.text_config):
            start_copying(decoder)
    return model


def tie_word_forms(model: Any, tokenizer: Any, words: Iterable[str]) -> None:
    """Mix the embedding of " calm" into those of "calm", "Calm" and " Calm", for each word.

    Otherwise the model has to learn separately for each word that capitalization does not change
    the meaning, which happens late in training.

    Args:
        model: A model with initial weights, changed in place.
        tokenizer: Tokenizer of the model.
        words: Words whose forms are single tokens.
    """
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for word in words:
            base = table[tokenizer.encode(f" {word}")[0]]
            for form in (word, word.capitalize(), f" {word.capitalize()}"):
                row = table[tokenizer.encode(form)[0]]
                row.add_(base).mul_(0.5**0.5)


def _set_patch_positions(model: Any, config: SiglipVisionConfig) -> None:
    """Set the position embeddings of patches to sines and cosines of their row and column."""
    side = config.image_size // config.patch_size
    quarter = config.hidden_size // 4
    rates = 0.5 ** (torch.arange(quarter) * (4.0 / quarter))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates * math.pi / 2 for axis in (rows, columns)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    for name, module in model.named_modules():
        if name.endswith("position_embedding") and isinstance(module, nn.Embedding):
            module.weight.copy_(0.5 * table)


def dialogue_text(first: str, turns: Iterable[str]) -> list[tuple[str, bool]]:
    """Render a dialogue like the chat template, split where answers start and end.

    Args:
        first: Content of the first user turn.
        turns: Answer, question, answer, ...

    Returns:
        Pieces of text, each with whether it is a target of the loss.
    """
    pieces = [(f"{USER}{first}{END}{ASSISTANT}", False)]
    for number, turn in enumerate(turns):
        if number % 2 == 0:
            pieces.append((f"{turn}{END}", True))
        else:
            pieces.append((f"{USER}{turn}{END}{ASSISTANT}", False))
    return pieces
