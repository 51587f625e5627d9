"""Tests of the drawn scenes and of the texts about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.small_model.captions import describe, make_example
from recipes.small_model.drawings import COLORS, SIZE, Scene, draw_scene


def draw(n: int) -> Scene:
    return draw_scene(np.random.default_rng([0, n]))[1]


def test_the_same_state_draws_the_same_scene() -> None:
    images = [draw_scene(np.random.default_rng([0, 5]))[0] for _ in range(2)]
    assert images[0].size == (SIZE, SIZE)
    assert images[0].tobytes() == images[1].tobytes()


def test_all_kinds_are_drawn_and_described() -> None:
    scenes = [draw(n) for n in range(40)]
    assert {scene.kind for scene in scenes} == {"cover", "shapes", "landscape", "people"}
    for scene in scenes:
        text = describe(scene).lower()
        assert scene.key in text
        assert set(scene.colors) <= set(COLORS)
        assert all(color in text for color in scene.colors)
        assert ("dark" if scene.is_dark else "bright") in text


@pytest.mark.parametrize("seed", range(3))
def test_examples_ask_about_the_scene(seed: int) -> None:
    scene = draw(seed)
    examples = [make_example(Path("x.png"), scene, np.random.default_rng(n)) for n in range(40)]
    answers = {example.answer for example in examples}
    assert all(example.prompt.images == (Path("x.png"),) for example in examples)
    assert describe(scene) in answers
    assert answers & {"Dark.", "Bright."}
    assert f"{scene.subject.capitalize()}." in answers
