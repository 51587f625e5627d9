"""User preferences: recurrence, preference histories, updates by one block, and visible items."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_msr import tables
from mllm_msr.backends.mock import MockBackend
from mllm_msr.summarization.preferences import OPENING, infer_preferences, items_read, n_prompts
from mllm_msr.types import Prompt


def histories(**users: str) -> pl.DataFrame:
    """Return interactions with the given items: histories(u="a b c")."""
    rows = [
        (user, item, position, position)
        for user, items in users.items()
        for position, item in enumerate(items.split())
    ]
    return pl.DataFrame(rows, schema=dict(tables.INTERACTIONS), orient="row")


def summaries(*items: str) -> pl.DataFrame:
    rows = [
        (item, f"text of {item}", f"look of {item}", f"all of {item}", "ok", "") for item in items
    ]
    return pl.DataFrame(rows, schema=dict(tables.SUMMARIES), orient="row")


SUMMARIES = summaries(*"abcdefghij")


def recite(prompt: Prompt) -> str:
    """Return an answer that names all items in the prompt and its previous preference."""
    text = prompt.text
    seen = [item for item in "abcdefghij" if f"of {item}" in text]
    return f"{OPENING} " + " ".join(f"all of {item}" for item in seen)


def preference_history(frame: pl.DataFrame, user: str) -> list[tuple[int, int, str, bool]]:
    rows = frame.filter(pl.col("user_id") == user).select("block", "n_items", "preference", "final")
    return [
        (b, n, p.removeprefix(OPENING).replace(" all of ", ""), f)
        for b, n, p, f in rows.iter_rows()
    ]


def test_each_block_reads_its_items_and_the_previous_preference() -> None:
    backend = MockBackend(recite)
    frame = infer_preferences(histories(u="a b c d e f g", v="j"), SUMMARIES, backend)
    assert dict(frame.schema) == dict(tables.PREFERENCES)
    assert preference_history(frame, "u") == [
        (0, 3, "abc", False),
        (1, 6, "abcdef", False),
        (2, 7, "abcdefg", True),
    ]
    assert preference_history(frame, "v") == [(0, 1, "j", True)]
    second = next(p for p in backend.history if "of d" in p.text and "of g" not in p.text)
    assert 'previous preference: "The user appears to have a preference for all of a' in second.text
    assert '1. "all of d"\n2. "all of e"\n3. "all of f"' in second.text


def test_all_users_advance_by_one_block_per_round() -> None:
    backend = MockBackend(recite)
    infer_preferences(histories(u="a b c d e", v="f g h i"), SUMMARIES, backend)
    first = ["previous preference:" in p.text for p in backend.history]
    assert first == [False, False, True, True]


def test_direct_inference_reads_the_whole_history_at_once() -> None:
    backend = MockBackend(recite)
    args = {"method": "direct", "every_block": False}
    frame = infer_preferences(histories(u="a b c d e"), SUMMARIES, backend, **args)
    assert preference_history(frame, "u") == [(1, 5, "abcde", True)]
    assert len(backend.history) == 1
    full = infer_preferences(histories(u="a b c d e"), SUMMARIES, backend, method="direct")
    assert preference_history(full, "u") == [(0, 3, "abc", False), (1, 5, "abcde", True)]
    assert not [p for p in backend.history if "previous preference:" in p.text]


def test_without_images_only_text_summaries_are_read() -> None:
    backend = MockBackend(recite)
    infer_preferences(histories(u="a b"), SUMMARIES, backend, use_images=False)
    assert '"text of a"' in backend.history[0].text
    assert "all of" not in backend.history[0].text


def test_a_failed_block_keeps_the_previous_preference() -> None:
    def fail_on_d(prompt: Prompt) -> str:
        if "of d" in prompt.text:
            raise RuntimeError("failed")
        return recite(prompt)

    frame = infer_preferences(histories(u="a b c d", v="d"), SUMMARIES, MockBackend(fail_on_d))
    assert preference_history(frame, "u")[1] == (1, 4, "abc", True)
    assert frame["flags"].to_list() == ["", "failed", "failed"]
    assert preference_history(frame, "v")[0][2] == " items such as:d"


def test_items_without_a_summary_are_skipped() -> None:
    backend = MockBackend(recite)
    frame = infer_preferences(histories(u="a x", v="x y"), SUMMARIES, backend)
    assert preference_history(frame, "u") == [(0, 2, "a", True)]
    assert frame.filter(pl.col("user_id") == "v")["flags"].item() == "nothing_to_read"
    assert len(backend.history) == 1


def test_cut_and_unexpected_answers_are_flagged() -> None:
    backend = MockBackend(["They like lanterns and rain."])
    frame = infer_preferences(histories(u="a"), SUMMARIES, backend, words=3)
    assert frame["preference"].item() == "They like lanterns"
    assert frame["flags"].item() == "cut,unexpected_opening"


@pytest.mark.parametrize("length", [3, 4, 5, 6, 8])
def test_an_update_equals_a_full_run_and_costs_one_prompt(length: int) -> None:
    items = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
    before = histories(u=" ".join(items[:length]), v="a b")
    after = histories(u=" ".join(items[: length + 1]), v="a b")
    previous = infer_preferences(before, SUMMARIES, MockBackend(recite))
    backend = MockBackend(recite)
    updated = infer_preferences(after, SUMMARIES, backend, previous=previous)
    assert len(backend.history) == 1
    assert updated.equals(infer_preferences(after, SUMMARIES, MockBackend(recite)))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=5), st.integers(1, 4))
def test_no_preference_depends_on_later_items(lengths: list[int], block_size: int) -> None:
    users = {f"u{i}": " ".join("abcdefghij"[:n]) for i, n in enumerate(lengths)}
    backend = MockBackend(recite)
    frame = infer_preferences(histories(**users), SUMMARIES, backend, block_size=block_size)
    for _, _, n_items, preference, _, _ in frame.iter_rows():
        named = {item for item in "abcdefghij" if f"of {item}" in preference}
        assert named == set("abcdefghij"[:n_items])
    final = frame.filter("final")
    assert sorted(final["n_items"]) == sorted(lengths)
    assert frame.height == n_prompts(histories(**users), block_size=block_size)


@pytest.mark.parametrize(
    ("max_items", "expected"),
    [
        (10, [(0, 3, "abc"), (1, 6, "abcdef"), (2, 8, "abcdefgh")]),
        (5, [(1, 6, "def"), (2, 8, "defgh")]),
        (4, [(2, 8, "gh")]),
        (1, [(2, 8, "h")]),
    ],
)
def test_only_the_latest_blocks_of_long_histories_are_read(
    max_items: int, expected: list[tuple[int, int, str]]
) -> None:
    history = histories(u="a b c d e f g h")
    frame = infer_preferences(history, SUMMARIES, MockBackend(recite), max_items=max_items)
    assert [row[:3] for row in preference_history(frame, "u")] == expected
    assert n_prompts(history, max_items=max_items) == len(expected)


def test_items_read_are_those_in_the_latest_blocks() -> None:
    history = histories(u="a b c d e f g h", v="i a")
    assert items_read(history).to_list() == list("abcdefghi")
    assert items_read(history, max_items=5).to_list() == list("adefghi")
    assert items_read(tables.empty(tables.INTERACTIONS)).to_list() == []


def test_without_histories_there_are_no_rows() -> None:
    frame = infer_preferences(tables.empty(tables.INTERACTIONS), SUMMARIES, MockBackend(recite))
    assert frame.height == 0
    assert dict(frame.schema) == dict(tables.PREFERENCES)
