"""The reader of GGUF files agrees with that of Transformers, and the tokenizer with SmolLM2's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from mllm_msr.models.small.language import LanguageModel, read_language_model
from mllm_msr.models.small.sources import LANGUAGE

gguf = pytest.importorskip("gguf", reason="the extra small is not installed")

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>")
MERGES = ("Ġ y", "e s", "Ġy es", "n o", "Ġ no", "1 9", "Ġ 1")
N_HEADS, N_KEY_HEADS, HEAD, LAYERS = 4, 2, 16, 2
HIDDEN, INNER = N_HEADS * HEAD, 96


def write_model(path: Path, *, architecture: str = "llama") -> None:
    """Write a small model: embeddings in 8 bits, matrices in 4 bits, norms in float32."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int, kind: Any) -> None:
        values = rng.normal(size=(rows, columns)).astype(np.float32) / np.sqrt(columns)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    matrix = gguf.GGMLQuantizationType.Q4_1
    add("token_embd.weight", len(tokens), HIDDEN, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", rng.uniform(0.5, 2, HIDDEN).astype(np.float32))
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", N_KEY_HEADS * HEAD, HIDDEN),
            ("attn_v", N_KEY_HEADS * HEAD, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", INNER, HIDDEN),
            ("ffn_up", INNER, HIDDEN),
            ("ffn_down", HIDDEN, INNER),
        ):
            add(f"blk.{layer}.{name}.weight", rows, columns, matrix)
        for name in ("attn_norm", "ffn_norm"):
            norm = rng.uniform(0.5, 2, HIDDEN).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{name}.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_model(path)
    return path


def test_weights_equal_those_that_transformers_reads(path: Path) -> None:
    found = read_language_model(path)
    expected = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    state = expected.model.state_dict()
    assert set(found.state) == set(state)
    for name, weight in state.items():
        assert torch.equal(found.state[name], weight), name
    for name in ("hidden_size", "num_key_value_heads", "rope_parameters", "vocab_size"):
        assert getattr(found.config, name) == getattr(expected.config, name)
    assert found.config.rms_norm_eps == pytest.approx(expected.config.rms_norm_eps)


@torch.inference_mode()
def test_logits_equal_those_of_transformers(path: Path) -> None:
    found = read_language_model(path)
    model = transformers.LlamaForCausalLM(found.config).eval()
    model.model.load_state_dict(found.state)
    expected = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    ids = torch.tensor([found.tokenizer("yes or no? 1994")["input_ids"]])
    torch.testing.assert_close(model(ids).logits, expected.eval()(ids).logits)


def test_each_digit_is_a_token_and_text_is_split_like_that_of_gpt2(path: Path) -> None:
    tokenizer = read_language_model(path).tokenizer
    assert tokenizer.tokenize(" yes no") == ["Ġyes", "Ġno"]
    assert tokenizer.tokenize(" 19yes") == ["Ġ", "1", "9", "y", "es"]
    for text in ("yes  19\n no", "Ünïcödé ☺", " leading"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_image_token_takes_the_place_of_a_reserved_one(path: Path) -> None:
    tokenizer = read_language_model(path).tokenizer
    assert tokenizer.convert_tokens_to_ids("<image>") == SPECIAL.index("<empty_output>")
    assert tokenizer.tokenize("no<image>no") == ["no", "<image>", "no"]
    assert "<image>" in tokenizer.all_special_tokens
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token == "<|im_end|>"


def test_a_model_of_another_kind_is_rejected(tmp_path: Path) -> None:
    write_model(tmp_path / "other.gguf", architecture="mamba")
    with pytest.raises(ValueError, match=r"other\.gguf is not a Llama model"):
        read_language_model(tmp_path / "other.gguf")


@pytest.fixture(scope="module")
def real(packages: None) -> LanguageModel:
    assert LANGUAGE.path is not None
    return read_language_model(LANGUAGE.path)


def test_the_template_is_that_of_the_file_with_a_mark_for_images(real: LanguageModel) -> None:
    assert LANGUAGE.path is not None
    original = gguf.GGUFReader(LANGUAGE.path).fields["tokenizer.chat_template"].contents()
    user, system = {"role": "user", "content": "Which?"}, {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "This one."}
    for turns in ([user], [system, user], [user, answer, user]):
        for opens in (True, False):
            options = {"tokenize": False, "add_generation_prompt": opens}
            expected = real.tokenizer.apply_chat_template(turns, chat_template=original, **options)
            assert real.tokenizer.apply_chat_template(turns, **options) == expected
            parts = [
                {**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns
            ]
            assert real.tokenizer.apply_chat_template(parts, **options) == expected
    shown = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}]
    text = real.tokenizer.apply_chat_template(shown, tokenize=False)
    assert text.endswith("<|im_start|>user\n<image>\nWhich?<|im_end|>\n")


def test_the_vocabulary_has_no_token_of_several_digits(real: LanguageModel) -> None:
    """So splitting texts at digits, as the published tokenizer does, loses no token."""
    tokens = set(real.tokenizer.get_vocab()) - set(real.tokenizer.all_special_tokens)
    several = [token for token in tokens if sum(char in "0123456789" for char in token) > 1]
    mixed = [token for token in tokens if len(token) > 1 and set(token) & set("0123456789")]
    assert several == mixed == []
    assert len(real.tokenizer) == real.config.vocab_size == 49_152
