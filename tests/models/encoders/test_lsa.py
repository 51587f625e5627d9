"""Latent semantic analysis: unit rows, similar texts nearby, the same vectors in any batch."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.storage.artifact_cache import ArtifactCache

CORPUS = [
    "A calm film of a lantern in red colours.",
    "A loud film of a boat in green colours.",
    "A calm song about a lantern.",
    "A loud song about a boat.",
]


@pytest.mark.parametrize("corpus", [CORPUS, [f"{t} part {i}" for i in range(60) for t in CORPUS]])
def test_similar_texts_are_near_and_rows_have_unit_length(corpus):
    encoder = LsaEncoder(corpus, n_dimensions=8 if len(corpus) > 8 else 128)
    vectors = encoder.encode([*CORPUS, "lanterns? a LANTERN, calm!"])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    similarity = vectors[:4] @ vectors[4]
    assert min(similarity[0], similarity[2]) > max(similarity[1], similarity[3])


def test_a_text_without_words_of_the_corpus_gets_a_zero_row():
    encoder = LsaEncoder(CORPUS)
    assert not encoder.encode(["", "...", "xyzzy"]).any()
    assert LsaEncoder([]).encode(["a film"]).shape == (1, 0)


def test_vectors_depend_neither_on_the_batch_nor_on_the_instance():
    first, second = LsaEncoder(CORPUS), LsaEncoder(CORPUS)
    together = first.encode(CORPUS)
    alone = np.concatenate([second.encode([text]) for text in CORPUS])
    assert together @ together.T == pytest.approx(alone @ alone.T, abs=1e-5)


def test_directions_are_cached(tmp_path, monkeypatch):
    first = LsaEncoder(CORPUS, artifact_cache=ArtifactCache(tmp_path))

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("mllm_msr.models.encoders.lsa.main_directions", fail)
    second = LsaEncoder(CORPUS, artifact_cache=ArtifactCache(tmp_path))
    assert np.array_equal(first.encode(CORPUS), second.encode(CORPUS))
    assert second.fingerprint == "lsa:4"
    with pytest.raises(AssertionError, match="computed again"):
        LsaEncoder(CORPUS[:2], artifact_cache=ArtifactCache(tmp_path))
