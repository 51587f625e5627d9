"""SmolLM2-135M-Instruct and its tokenizer, read from a GGUF file with 4-bit weights.

Transformers can read the file, too, but parses its vocabulary several times, which takes ten times
as long; a test compares the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

IMAGE_TOKEN: Final = "<image>"  # noqa: S105 - no password
# A reserved token of the vocabulary that no text of a dialogue contains. The image token takes its
# place, so that the vocabulary and all probabilities of the language model stay as they are.
_RESERVED_TOKEN: Final = "<empty_output>"  # noqa: S105
_SPECIAL: Final = 3  # type of special tokens in GGUF files

_LAYERS: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# SmolLM2's own template, with contents that are lists of parts.
_TEMPLATE: Final = (
    "{%- macro show(content) -%}"
    "{%- if content is string -%}{{ content }}"
    "{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image>\\n' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] != 'system' -%}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\\n' }}{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + show(message['content']) + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A language model without weights for images.

    Attributes:
        config: Configuration.
        state: Weights of `LlamaModel` in float32, by name.
        tokenizer: Tokenizer with the image token and the chat template.
    """

    config: transformers.LlamaConfig
    state: Mapping[str, Tensor]
    tokenizer: transformers.PreTrainedTokenizerFast


def read_language_model(path: Path) -> LanguageModel:
    """Read a Llama model with a byte-level vocabulary from a GGUF file.

    Args:
        path: The file.

    Raises:
        ValueError: The file is damaged or contains another kind of model.
    """
    import gguf  # noqa: PLC0415 - an extra

    reader = gguf.GGUFReader(path)
    fields = reader.fields

    def value(name: str) -> Any:
        if name not in fields:
            raise ValueError(f"{path.name} has no field {name}")
        return fields[name].contents()

    if value("general.architecture") != "llama" or value("tokenizer.ggml.model") != "gpt2":
        raise ValueError(f"{path.name} is not a Llama model with a byte-level vocabulary")
    tokenizer = _make_tokenizer(
        value("tokenizer.ggml.tokens"),
        value("tokenizer.ggml.token_type"),
        value("tokenizer.ggml.merges"),
        eos=value("tokenizer.ggml.eos_token_id"),
        bos=value("tokenizer.ggml.bos_token_id"),
        max_length=value("llama.context_length"),
    )
    config = transformers.LlamaConfig(
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=value("llama.attention.head_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=round(value("llama.attention.layer_norm_rms_epsilon"), 9),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    state = {}
    for tensor in reader.tensors:
        weight = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        n_heads = {
            "attn_q": config.num_attention_heads,
            "attn_k": config.num_key_value_heads,
        }.get(tensor.name.split(".")[-2])
        if n_heads:
            weight = _split_halves(weight, n_heads)
        state[_name(tensor.name)] = weight
    return LanguageModel(config, state, tokenizer)


def _name(gguf_name: str) -> str:
    """Return the name of a weight in `LlamaModel`."""
    if gguf_name == "token_embd.weight":
        return "embed_tokens.weight"
    if gguf_name == "output_norm.weight":
        return "norm.weight"
    _, number, kind, _ = gguf_name.split(".")
    return f"layers.{number}.{_LAYERS[kind]}.weight"


def _split_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of each head for rotary embeddings of halves instead of adjacent pairs."""
    rows, columns = weight.shape
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns).contiguous()


def _make_tokenizer(
    tokens: list[str],
    types: list[int],
    merges: list[str],
    *,
    bos: int,
    eos: int,
    max_length: int,
) -> transformers.PreTrainedTokenizerFast:
    """Build the tokenizer: each digit is one token, and texts are split into bytes as in GPT-2."""
    tokens = [IMAGE_TOKEN if token == _RESERVED_TOKEN else token for token in tokens]
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    core = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, pairs))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _SPECIAL]
    core.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=tokens[bos],
        eos_token=tokens[eos],
        pad_token=tokens[eos],
        additional_special_tokens=[t for t in special if t not in {tokens[bos], tokens[eos]}],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=_TEMPLATE,
    )
