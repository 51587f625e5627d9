"""Tests of the drawn pictures and of the texts about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.small_model.captions import describe, make_example
from recipes.small_model.drawings import COLORS, SIZE, Picture, draw_picture


def draw(n: int) -> Picture:
    return draw_picture(np.random.default_rng([0, n]))[1]


def test_the_same_state_draws_the_same_picture() -> None:
    images = [draw_picture(np.random.default_rng([0, 5]))[0] for _ in range(2)]
    assert images[0].size == (SIZE, SIZE)
    assert images[0].tobytes() == images[1].tobytes()


def test_all_kinds_are_drawn_and_described() -> None:
    pictures = [draw(n) for n in range(40)]
    assert {picture.kind for picture in pictures} == {"cover", "shapes", "landscape", "people"}
    for picture in pictures:
        text = describe(picture).lower()
        assert picture.key in text
        assert set(picture.colors) <= set(COLORS)
        assert all(color in text for color in picture.colors)
        assert ("dark" if picture.is_dark else "bright") in text


@pytest.mark.parametrize("seed", range(3))
def test_examples_ask_about_the_picture(seed: int) -> None:
    picture = draw(seed)
    examples = [make_example(Path("x.png"), picture, np.random.default_rng(n)) for n in range(40)]
    answers = {example.answer for example in examples}
    assert all(example.prompt.images == (Path("x.png"),) for example in examples)
    assert describe(picture) in answers
    assert answers & {"Dark.", "Bright."}
    assert f"{picture.subject.capitalize()}." in answers
