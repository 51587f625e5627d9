"""How often descriptions name what an image shows, against a value computed by hand."""

from __future__ import annotations

import pytest

from mllm_msr.types import Item
from recipes.small_model.naming import naming_rates
from recipes.small_model.posters import _genre_words


def test_rates_count_any_right_word_and_compare_with_other_images() -> None:
    answers = ["a red boat", "a blue car", "a boat"]
    found = naming_rates(answers, [{"boat", "ship"}, {"car"}, {"house"}])
    assert found["named"] == pytest.approx(2 / 3)
    # Over the six orders: the boat is named by two of three answers, the car by one.
    assert found["chance"] == pytest.approx(1 / 3, abs=0.03)
    # Two of the six orders put the car and a boat in their places.
    assert found["p"] == pytest.approx(1 / 3, abs=0.06)


def test_equal_answers_are_at_chance() -> None:
    found = naming_rates(["drama"] * 4, [{"drama"}, {"drama"}, {"war"}, {"horror"}])
    assert found == {"named": 0.5, "chance": 0.5, "p": 1.0}


def test_the_words_for_the_genres_of_a_film() -> None:
    film = Item("1", "A film", "Genres: Sci-Fi, Drama. Tags: war; slow")
    assert _genre_words(film) == ["sci-fi", "science fiction", "science-fiction", "drama"]
    assert _genre_words(Item("2", "A film", "Tags: Genres")) == []
