"""Tests of draft tokens by prompt lookup and their acceptance rates."""

from __future__ import annotations

import pytest

from mllm_msr.inference.engine import prompt_lookup
from mllm_msr.inference.engine.prompt_lookup import PromptLookup


def test_the_next_tokens_of_an_ngram_are_proposed() -> None:
    drafts = PromptLookup(3)
    drafts.add([1, 2, 3, 4, 5, 6])
    assert drafts.propose([[1, 2], [9, 4, 5], [8, 8, 8], [7]]) == [[3, 4, 5], [6], [], []]


def test_the_latest_and_longest_ngram_is_used() -> None:
    drafts = PromptLookup(1)
    drafts.add([1, 2, 3, 4])
    drafts.add([0, 2, 3, 5])
    assert drafts.propose([[9, 2, 3], [1, 2, 3], [0, 2, 3]]) == [[5], [4], [5]]


def test_only_new_tokens_are_added() -> None:
    drafts = PromptLookup(2)
    drafts.add([1, 2, 3, 4, 5], start=4)
    assert drafts.propose([[1, 2], [3, 4], [2, 3, 4]]) == [[], [5], [5]]


def test_zero_tokens_disable_drafts() -> None:
    drafts = PromptLookup(0)
    drafts.add([1, 2, 3])
    assert drafts.propose([[1, 2]]) == [[]]
    drafts.update_acceptance([0], 0)


def test_drafts_with_a_low_acceptance_rate_are_only_retried() -> None:
    drafts = PromptLookup(2)
    drafts.add([1, 2, 3, 4])

    def widths(n_accepted: int, n_steps: int) -> list[int]:
        found = []
        for _ in range(n_steps):
            [draft] = drafts.propose([[1, 2]])
            found.append(len(draft))
            if draft:
                drafts.update_acceptance([min(n_accepted, len(draft))], len(draft))
        return found

    assert set(widths(2, 20)) == {2}  # accepted: as many as allowed
    after = widths(0, 60)
    assert after[0] == 2
    assert after[-16:].count(0) == 14  # rejected: only at the retry interval
    assert after[-16:].count(2) == 2
    assert widths(1, 60)[-8:].count(1) == 7  # the first is accepted, the second is not


def test_the_number_of_entries_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lookup, "_MAX_ENTRIES", 10)
    drafts = PromptLookup(1)
    for first in range(0, 1000, 10):
        drafts.add(range(first, first + 10))
    assert len(drafts._next_tokens) <= 10 + 2 * 10
