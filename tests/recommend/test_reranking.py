"""The order of a list: the model's, the model's fused with the generators', and what follows it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mllm_msr.recommend.reranking import assemble, missing
from mllm_msr.recommend.retrieval import Candidate, Profile

CANDIDATES = [Candidate(item_id, 1.0 / (n + 1), ("recent",)) for n, item_id in enumerate("abcde")]
SCORES = {"a": 0.1, "b": 0.5, "c": 0.9}


def catalogue() -> SimpleNamespace:
    """Items that are all alike, each answered by its own letter."""
    index = SimpleNamespace(vectors=lambda ids: np.ones((len(ids), 2), dtype=np.float32))
    return SimpleNamespace(index=index, answers=lambda preference, item_id: (item_id,))


def listed(**options) -> str:
    found = assemble(
        catalogue(), Profile("u", ("z",), "x"), CANDIDATES, SCORES,
        **{"k": 5, "diversity": 0.0, **options},
    )  # fmt: skip
    return "".join(item.item_id for item in found.items)


def test_what_the_model_ranked_comes_first() -> None:
    assert listed() == "cbade"
    assert listed(k=4) == "cbad"


def test_a_fused_order_counts_the_generators_too() -> None:
    # The generators' relevance here is far apart, the model's vote is but one more generator.
    assert listed(order="fusion") == "abcde"


def test_each_item_has_its_score_source_and_answer() -> None:
    found = assemble(catalogue(), Profile("u", ("z",), "x"), CANDIDATES, SCORES, k=5, diversity=0.0)
    first, last = found.items[0], found.items[-1]
    assert (first.rank, first.score, first.generators, first.answers) == (
        1,
        0.9,
        ("recent",),
        ("c",),
    )
    assert (last.rank, last.score) == (5, None)
    assert (found.model_calls, found.fallback_reason, found.preference) == (3, None, "x")


@pytest.mark.parametrize(
    ("profile", "known", "reason"),
    [
        (Profile("u", ("z",), "x"), True, None),
        (Profile("u", ("z",), " "), True, "no_preference"),
        (Profile("u"), True, "no_history"),
        (Profile("u"), False, "unknown_user"),
        (Profile(""), False, "no_history"),
    ],
)
def test_why_the_model_has_nothing_to_go_by(
    profile: Profile, known: bool, reason: str | None
) -> None:
    assert missing(profile, known_user=known) == reason
