"""Language models without images; contents of turns are plain strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import transformers

from tiny_checkpoints._parts import (
    TEXT,
    chatml,
    llama_config,
    make_tokenizer,
    save,
    special_ids,
    text_family,
)

_LLAMA_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def _write(
    folder: Path,
    config_class: type[transformers.PretrainedConfig],
    model_class: type[transformers.PreTrainedModel],
    **options: Any,
) -> None:
    """Write a checkpoint with a template in the ChatML format."""
    marks = ["<|im_start|>"]
    tokenizer = make_tokenizer(marks, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = chatml()
    config = config_class(**{**TEXT, **special_ids(tokenizer), **options})
    save(model_class, config, tokenizer, folder)


@text_family
def llama(folder: Path) -> None:
    """Write Llama 3."""
    marks = ["<|start_header_id|>", "<|end_header_id|>"]
    tokenizer = make_tokenizer(marks, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|pad|>")
    tokenizer.chat_template = _LLAMA_TEMPLATE
    save(transformers.LlamaForCausalLM, llama_config(tokenizer), tokenizer, folder)


@text_family
def mistral(folder: Path) -> None:
    """Write Mistral: a sliding window in every layer."""
    _write(folder, transformers.MistralConfig, transformers.MistralForCausalLM, sliding_window=64)


@text_family
def qwen2(folder: Path) -> None:
    """Write Qwen2.5."""
    _write(folder, transformers.Qwen2Config, transformers.Qwen2ForCausalLM)


@text_family
def qwen3(folder: Path) -> None:
    """Write Qwen3: normalized queries and keys."""
    _write(folder, transformers.Qwen3Config, transformers.Qwen3ForCausalLM, head_dim=12)


@text_family
def smollm3(folder: Path) -> None:
    """Write SmolLM3: every fourth layer has no positions."""
    _write(folder, transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM, num_hidden_layers=4)


@text_family
def lfm2(folder: Path) -> None:
    """Write LFM2: convolutions and attention."""
    _write(
        folder,
        transformers.Lfm2Config,
        transformers.Lfm2ForCausalLM,
        num_hidden_layers=3,
        layer_types=["conv", "full_attention", "conv"],
        block_multiple_of=8,
    )
