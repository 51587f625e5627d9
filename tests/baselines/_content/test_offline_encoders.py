"""Encoders without weights: likeness where there is some, the same numbers every time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mllm_msr.baselines._content.offline_encoders import (
    ColourEncoder,
    HashingEncoder,
    _reduce,
    _tf_idf,
)

TEXTS = ["river boats at dawn", "boats on the river", "snowy peaks", "snow on a peak", "日本語"]


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_texts_that_share_words_or_their_parts_are_near():
    found = HashingEncoder().encode(TEXTS)
    assert cosine(found[0], found[1]) > cosine(found[0], found[2]) + 0.1
    assert cosine(found[2], found[3]) > cosine(found[0], found[2]) + 0.1  # snowy, snow
    assert found[4].any()


def test_full_width_keeps_all_inner_products():
    matrix = _tf_idf(TEXTS)
    reduced = _reduce(matrix, 128)
    assert reduced.shape == (5, 5)
    assert np.allclose(reduced @ reduced.T, (matrix @ matrix.T).toarray(), atol=1e-5)


def test_a_reduction_is_the_best_of_its_rank():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice([f"word{at}" for at in range(60)], 12)) for _ in range(200)]
    matrix = _tf_idf(texts)
    reduced = _reduce(matrix, 10)
    exact = np.linalg.svd(matrix.toarray(), compute_uv=False)[:10]
    assert np.linalg.norm(reduced, axis=0) == pytest.approx(exact, rel=0.02)


def test_the_same_texts_give_the_same_vectors():
    assert np.array_equal(HashingEncoder().encode(TEXTS), HashingEncoder().encode(TEXTS))


@pytest.mark.parametrize("text", ["!!!", "x", "\x00", "a" * 5000])
def test_odd_texts_get_finite_vectors(text):
    found = HashingEncoder().encode([text])
    assert found.shape == (1, 1)
    assert np.isfinite(found).all()
    assert found.any()


def image(left, right):
    image = Image.new("RGB", (64, 64), left)
    image.paste(Image.new("RGB", (32, 64), right), (32, 0))
    return image


def test_colours_and_their_places_are_told_apart():
    red_blue, again, blue_red, green = ColourEncoder().encode(
        [image("red", "blue"), image("#f00505", "#0505f0"), image("blue", "red"),
         image("green", "green")]
    )  # fmt: skip
    assert red_blue.shape == (157,)
    assert cosine(red_blue, again) > cosine(red_blue, blue_red) > cosine(red_blue, green)


def test_a_image_does_not_depend_on_its_company():
    alone = ColourEncoder().encode([image("red", "blue")])
    both = ColourEncoder().encode([image("green", "white"), image("red", "blue")])
    assert np.array_equal(alone[0], both[1])


def test_even_a_black_image_has_a_vector():
    assert ColourEncoder().encode([Image.new("RGB", (5, 300))]).any()
