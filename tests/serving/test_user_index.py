"""Who is known: in order, searchable whatever the case, in step with who comes and goes."""

from __future__ import annotations

import random

import pytest

from mllm_msr.serving.user_index import Directory


@pytest.mark.parametrize(
    ("contains", "expected"),
    [
        ("", ["Ada", "adam", "ben", "straße"]),
        ("AD", ["Ada", "adam"]),
        ("STRASSE", ["straße"]),
        ("zoe", []),
    ],
)
def test_ids_are_found_by_a_part_of_them_whatever_the_case(
    contains: str, expected: list[str]
) -> None:
    directory = Directory(["straße", "ben", "adam", "Ada", "ben"])
    assert directory.find(contains, limit=10) == (expected, len(expected))
    assert directory.find(contains, limit=1) == (expected[:1], len(expected))


def test_it_is_the_sorted_set_of_who_came_and_did_not_go() -> None:
    chance = random.Random(3)
    expected = {f"u{n}" for n in range(20)}
    directory = Directory(expected)
    for _ in range(300):
        user_id = f"u{chance.randrange(40)}"
        if chance.random() < 0.5:
            directory.add(user_id)
            expected.add(user_id)
        else:
            directory.remove(user_id)
            expected.discard(user_id)
        assert len(directory) == len(expected)
    assert directory.find("", limit=100) == (sorted(expected), len(expected))
    ones = sorted(user_id for user_id in expected if "1" in user_id)
    assert directory.find("1", limit=100) == (ones, len(ones))
