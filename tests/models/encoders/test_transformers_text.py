"""Text encoders of Transformers: mean pooling over a text's own tokens, and unit length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from mllm_msr.models.encoders.transformers_text import TransformersTextEncoder


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
