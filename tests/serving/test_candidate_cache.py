"""Candidates are found once for each state of a user, and anew when anything has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr import tables
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import Candidate, Profile, Retriever
from mllm_msr.serving.candidate_cache import Retrieval
from mllm_msr.types import Item


@pytest.fixture
def model(run: Path) -> Iterator[MllmMsr]:
    with MllmMsr.from_run(run) as opened:
        yield opened


@pytest.fixture
def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    """Whose candidates the retriever was asked for."""
    asked: list[Profile] = []
    retrieve = Retriever.retrieve

    def watched(self: Retriever, profile: Profile, n: int, **options: Any) -> list[Candidate]:
        asked.append(profile)
        return retrieve(self, profile, n, **options)

    monkeypatch.setattr(Retriever, "retrieve", watched)
    return asked


def profile_of(model: MllmMsr, user_id: str) -> Profile:
    return Profile(user_id, model.history(user_id), model.preference(user_id))


def test_the_same_question_is_answered_from_memory(
    model: MllmMsr, looked_for: list[Profile]
) -> None:
    retrieval, profile = Retrieval(model), profile_of(model, "user3")
    first = retrieval.candidates(profile, 5, exclude_seen=True)
    again = retrieval.candidates(profile_of(model, "user3"), 5, exclude_seen=True)
    assert again == first == model.retriever.retrieve(profile, 5)
    assert len(looked_for) == 2  # one of them in this test


def test_whatever_changes_the_answer_is_looked_at(
    model: MllmMsr, looked_for: list[Profile]
) -> None:
    retrieval, profile = Retrieval(model), profile_of(model, "user3")
    longer = replace(profile, history=(*profile.history, "item1"))
    for asked, n, exclude_seen in [
        (profile, 5, True),
        (profile, 6, True),
        (profile, 6, False),
        (longer, 6, False),
        (replace(longer, preference="squares"), 6, False),
    ]:
        found = retrieval.candidates(asked, n, exclude_seen=exclude_seen)
        assert found == model.retriever.retrieve(asked, n, exclude_seen=exclude_seen)
    assert len(looked_for) == 2 * 5


def test_a_new_item_is_found_at_once(model: MllmMsr) -> None:
    retrieval, profile = Retrieval(model), Profile("u", (), "a zebra")
    before = retrieval.candidates(profile, 100, exclude_seen=True)
    told = dict.fromkeys(tables.SUMMARIES, None) | {
        "item_id": "new", "summary": "A zebra", "image_status": "missing", "flags": ""
    }  # fmt: skip
    model.catalogue.add(Item("new", "Zebra"), pl.DataFrame([told], schema=dict(tables.SUMMARIES)))
    after = retrieval.candidates(profile, 100, exclude_seen=True)
    assert {one.item_id for one in after} == {one.item_id for one in before} | {"new"}


def test_nothing_stays_of_the_forgotten_and_of_those_without_a_name(
    model: MllmMsr, looked_for: list[Profile]
) -> None:
    retrieval = Retrieval(model)
    for _ in range(2):
        for profile in (profile_of(model, "user3"), Profile("", ("item1",))):
            retrieval.candidates(profile, 5, exclude_seen=True)
        retrieval.forget("user3")
        retrieval.forget("nobody")
    assert len(looked_for) == 4


def test_it_remembers_those_who_were_asked_for_last(
    model: MllmMsr, looked_for: list[Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_msr.serving.candidate_cache._USERS", 2)
    retrieval = Retrieval(model)
    for user_id in ("user1", "user2", "user1", "user3", "user1", "user2"):
        retrieval.candidates(profile_of(model, user_id), 5, exclude_seen=True)
    assert [profile.user_id for profile in looked_for] == ["user1", "user2", "user3", "user2"]
