"""Guesses of what an answer says next: what followed before, and only as long as it helps."""

from __future__ import annotations

import pytest

from mllm_msr.inference.engine import prompt_lookup
from mllm_msr.inference.engine.prompt_lookup import Speculation


def test_what_followed_is_guessed() -> None:
    speculation = Speculation(3)
    speculation.learn([1, 2, 3, 4, 5, 6])
    assert speculation.guess([[1, 2], [9, 4, 5], [8, 8, 8], [7]]) == [[3, 4, 5], [6], [], []]


def test_the_latest_follower_counts_and_a_longer_match_comes_first() -> None:
    speculation = Speculation(1)
    speculation.learn([1, 2, 3, 4])
    speculation.learn([0, 2, 3, 5])
    assert speculation.guess([[9, 2, 3], [1, 2, 3], [0, 2, 3]]) == [[5], [4], [5]]


def test_only_what_is_new_is_learned() -> None:
    speculation = Speculation(2)
    speculation.learn([1, 2, 3, 4, 5], start=4)
    assert speculation.guess([[1, 2], [3, 4], [2, 3, 4]]) == [[], [5], [5]]


def test_none_where_none_are_wanted() -> None:
    speculation = Speculation(0)
    speculation.learn([1, 2, 3])
    assert speculation.guess([[1, 2]]) == [[]]
    speculation.judge([0], 0)


def test_wrong_guesses_are_given_up_and_tried_again() -> None:
    speculation = Speculation(2)
    speculation.learn([1, 2, 3, 4])

    def widths(right: int, n_steps: int) -> list[int]:
        found = []
        for _ in range(n_steps):
            [guess] = speculation.guess([[1, 2]])
            found.append(len(guess))
            if guess:
                speculation.judge([min(right, len(guess))], len(guess))
        return found

    assert set(widths(2, 20)) == {2}  # right: as many as are allowed
    after = widths(0, 60)
    assert after[0] == 2
    assert after[-16:].count(0) == 14  # wrong: only now and then
    assert after[-16:].count(2) == 2
    assert widths(1, 60)[-8:].count(1) == 7  # the first is right, the second is not


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lookup, "_MOST_ENTRIES", 10)
    speculation = Speculation(1)
    for first in range(0, 1000, 10):
        speculation.learn(range(first, first + 10))
    assert len(speculation._followers) <= 10 + 2 * 10
