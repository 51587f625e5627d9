"""Hashed TF-IDF: similar texts nearby, an accurate truncated SVD, deterministic vectors."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.models.encoders.text.hashing import HashingEncoder, hashed_tf_idf, truncated_svd

TEXTS = ["river boats at dawn", "boats on the river", "snowy peaks", "snow on a peak", "日本語"]


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_texts_that_share_words_or_parts_of_words_are_near():
    found = HashingEncoder().encode(TEXTS)
    assert cosine(found[0], found[1]) > cosine(found[0], found[2]) + 0.1
    assert cosine(found[2], found[3]) > cosine(found[0], found[2]) + 0.1  # snowy, snow
    assert found[4].any()


def test_svd_at_full_rank_keeps_all_inner_products():
    matrix = hashed_tf_idf(TEXTS)
    reduced = truncated_svd(matrix, 128)
    assert reduced.shape == (5, 5)
    assert np.allclose(reduced @ reduced.T, (matrix @ matrix.T).toarray(), atol=1e-5)


def test_truncated_svd_has_the_largest_singular_values():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice([f"word{index}" for index in range(60)], 12)) for _ in range(200)]
    matrix = hashed_tf_idf(texts)
    reduced = truncated_svd(matrix, 10)
    exact = np.linalg.svd(matrix.toarray(), compute_uv=False)[:10]
    assert np.linalg.norm(reduced, axis=0) == pytest.approx(exact, rel=0.02)


def test_the_same_texts_give_the_same_vectors():
    assert np.array_equal(HashingEncoder().encode(TEXTS), HashingEncoder().encode(TEXTS))


@pytest.mark.parametrize("text", ["!!!", "x", "\x00", "a" * 5000])
def test_unusual_texts_get_finite_vectors(text):
    found = HashingEncoder().encode([text])
    assert found.shape == (1, 1)
    assert np.isfinite(found).all()
    assert found.any()
