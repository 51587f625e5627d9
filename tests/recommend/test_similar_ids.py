"""Search for ids that are similar to an unknown one."""

from __future__ import annotations

import pytest

from mllm_msr.recommend import similar_ids as module
from mllm_msr.recommend.similar_ids import similar_ids

IDS = [f"u{n:04}" for n in range(400)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("u003x", ["u0030", "u0031", "u0032"]),
        ("U0399", ["u0399"]),
        ("u00x1", ["u0001", "u0010", "u0011"]),
        ("somebody@example.org", []),
        ("", []),
    ],
)
def test_ids_with_the_same_beginning_come_first(wanted: str, expected: list[str]) -> None:
    assert similar_ids(wanted, IDS)[: len(expected) or None] == expected


@pytest.mark.parametrize("wanted", ["12", "012", "000012"])
def test_an_id_with_other_leading_zeros_comes_first(wanted: str) -> None:
    ids = ["00000", "00012", "00120", "0121", "122", "123"]
    assert similar_ids(wanted, ids)[0] == "00012"


def test_zeros_alone_are_no_reason_to_suggest_an_id() -> None:
    assert similar_ids("0", ["00000", "00012"]) == []


def test_there_is_nothing_similar_among_no_ids() -> None:
    assert similar_ids("u1", []) == []


@pytest.mark.parametrize(
    ("wanted", "expected"), [("u0200x", "u0200"), ("u0000", "u0000"), ("x399", "u0399")]
)
def test_a_bounded_number_of_ids_is_compared(
    monkeypatch: pytest.MonkeyPatch, wanted: str, expected: str
) -> None:
    monkeypatch.setattr(module, "_N_COMPARED", 10)
    assert similar_ids(wanted, IDS, limit=1) == [expected]
