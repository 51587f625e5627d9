"""Text encoders of Transformers: mean pooling over a text's own tokens, and unit length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from mllm_msr.models.encoders.transformers_text import TransformersTextEncoder
from mllm_msr.models.loading import load_processor


@pytest.fixture
def means(bert, vocabulary):
    """Return the mean hidden state of a text, computed one text at a time."""
    model = transformers.BertModel.from_pretrained(bert).eval()

    def mean(text):
        ids = torch.tensor([[vocabulary.index(word) for word in text.split()][:16]])
        with torch.no_grad():
            return model(ids).last_hidden_state[0].mean(dim=0).numpy()

    return mean


def test_a_text_is_the_mean_of_its_own_tokens(bert, means):
    texts = ["river boats at dawn", "river", "boats " * 40]
    found = TransformersTextEncoder(str(bert)).encode(texts)
    for text, row in zip(texts, found, strict=True):
        assert np.allclose(row, means(text), atol=1e-5)


def test_vectors_can_have_unit_length(bert, means):
    encoder = TransformersTextEncoder(str(bert), unit_length=True, dtype="auto", device="cpu")
    (row,) = encoder.encode(["river boats"])
    mean = means("river boats")
    assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_long_texts_are_truncated(bert, means):
    (row,) = TransformersTextEncoder(str(bert), max_tokens=2).encode(["river boats at dawn"])
    assert np.allclose(row, means("river boats"), atol=1e-5)


def test_more_texts_than_a_batch_keep_their_order(bert, means):
    texts = ["river boats" if index % 3 else "dawn at river" for index in range(70)]
    found = TransformersTextEncoder(str(bert)).encode(texts)
    assert np.allclose(found, [means(text) for text in texts], atol=1e-5)


def test_no_texts_give_no_rows(bert):
    assert TransformersTextEncoder(str(bert)).encode([]).shape == (0, 8)


def test_fingerprint_depends_on_weights_and_pooling(bert):
    before = TransformersTextEncoder(str(bert)).fingerprint
    assert TransformersTextEncoder(str(bert)).fingerprint == before
    assert TransformersTextEncoder(str(bert), unit_length=True).fingerprint != before
    assert TransformersTextEncoder(str(bert), max_tokens=8).fingerprint != before
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert TransformersTextEncoder(str(bert)).fingerprint != before


def test_decoders_are_represented_by_their_last_token(tiny_checkpoint):
    folder = tiny_checkpoint("qwen3")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["a calm film", "a red lantern and the quiet stories of an old town", "yes"]
    encoder = TransformersTextEncoder(str(folder))
    for text, row in zip(texts, encoder.encode(texts), strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        assert np.allclose(row, states[0, -1].numpy(), atol=1e-5)
    assert encoder.fingerprint.endswith("/raw/last")


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_multimodal_decoders_read_texts_in_their_chat_template(tiny_checkpoint, family):
    folder = tiny_checkpoint(family)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = load_processor(str(folder))
    texts = ["a calm film", "a red lantern and the quiet stories of an old town"]
    found = TransformersTextEncoder(str(folder), unit_length=True, device="cpu").encode(texts)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for text, row in zip(texts, found, strict=True):
        turns = [
            {
                "role": "system",
                "content": [{"type": "text", "text": "Represent the user's input."}],
            },
            {"role": "user", "content": [{"type": "text", "text": text}]},
        ]
        rendered = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = processor.tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            state = model(input_ids=ids).last_hidden_state[0, -1].numpy()
        assert np.allclose(row, state / np.linalg.norm(state), atol=1e-4)


def test_long_texts_of_multimodal_decoders_keep_the_end_of_the_template(tiny_checkpoint):
    encoder = TransformersTextEncoder(str(tiny_checkpoint("qwen3_vl")), max_tokens=120)
    long, longer = encoder.encode(["calm film " * 200, "calm film " * 300])
    assert np.allclose(long, longer, atol=1e-5)
    assert np.isfinite(long).all()
