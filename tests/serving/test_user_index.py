"""Tests for the searchable index of user ids."""

from __future__ import annotations

import random

import pytest

from mllm_msr.serving.user_index import UserIndex


@pytest.mark.parametrize(
    ("contains", "expected"),
    [
        ("", ["Ada", "adam", "ben", "straße"]),
        ("AD", ["Ada", "adam"]),
        ("STRASSE", ["straße"]),
        ("zoe", []),
    ],
)
def test_find_ignores_case(contains: str, expected: list[str]) -> None:
    index = UserIndex(["straße", "ben", "adam", "Ada", "ben"])
    assert index.find(contains, limit=10) == (expected, len(expected))
    assert index.find(contains, limit=1) == (expected[:1], len(expected))


def test_index_equals_a_sorted_set_after_random_changes() -> None:
    rng = random.Random(3)
    expected = {f"u{n}" for n in range(20)}
    index = UserIndex(expected)
    for _ in range(300):
        user_id = f"u{rng.randrange(40)}"
        if rng.random() < 0.5:
            index.add(user_id)
            expected.add(user_id)
        else:
            index.remove(user_id)
            expected.discard(user_id)
        assert len(index) == len(expected)
    assert index.find("", limit=100) == (sorted(expected), len(expected))
    with_one = sorted(user_id for user_id in expected if "1" in user_id)
    assert index.find("1", limit=100) == (with_one, len(with_one))


def test_similar_ids_begin_like_the_text() -> None:
    index = UserIndex(f"u{n:04}" for n in range(400))
    assert index.similar("u003x") == ["u0030", "u0031", "u0032"]
    assert index.similar("U0030 ", limit=1) == ["u0030"]
    assert index.similar("somebody@example.org") == []
    assert UserIndex([]).similar("u") == []
