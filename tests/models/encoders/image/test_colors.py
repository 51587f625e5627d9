"""Color and edge statistics of images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mllm_msr.models.encoders.image.colors import ColorEncoder


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def image(left, right):
    image = Image.new("RGB", (64, 64), left)
    image.paste(Image.new("RGB", (32, 64), right), (32, 0))
    return image


def test_colors_and_their_positions_are_distinguished():
    red_blue, similar, blue_red, green = ColorEncoder().encode(
        [
            image("red", "blue"),
            image("#f00505", "#0505f0"),
            image("blue", "red"),
            image("green", "green"),
        ]
    )
    assert red_blue.shape == (157,)
    assert cosine(red_blue, similar) > cosine(red_blue, blue_red) > cosine(red_blue, green)


def test_a_vector_does_not_depend_on_the_batch():
    alone = ColorEncoder().encode([image("red", "blue")])
    both = ColorEncoder().encode([image("green", "white"), image("red", "blue")])
    assert np.array_equal(alone[0], both[1])


def test_a_black_image_has_a_non_zero_vector():
    assert ColorEncoder().encode([Image.new("RGB", (5, 300))]).any()
