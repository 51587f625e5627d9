"""Tests for cached candidate retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr import tables
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, Proposals
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import CollaborativeGenerator, Retriever
from mllm_msr.serving.candidate_cache import CandidateCache
from mllm_msr.types import Item


@pytest.fixture
def model(run: Path) -> Iterator[MllmMsr]:
    with MllmMsr.from_run(run) as opened:
        yield opened


@pytest.fixture
def retrieved(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    """Record the profiles for which the retriever is called."""
    profiles: list[Profile] = []
    retrieve = Retriever.retrieve

    def recorded(self: Retriever, profile: Profile, n: int, **options: Any) -> list[Candidate]:
        profiles.append(profile)
        return retrieve(self, profile, n, **options)

    monkeypatch.setattr(Retriever, "retrieve", recorded)
    return profiles


def test_repeated_request_is_answered_from_the_cache(
    model: MllmMsr, retrieved: list[Profile]
) -> None:
    cache, profile = CandidateCache(model), model.users.profile("user3")
    first = cache.retrieve(profile, 5, exclude_seen=True)
    again = cache.retrieve(model.users.profile("user3"), 5, exclude_seen=True)
    assert again == first == model.retriever.retrieve(profile, 5)
    assert len(retrieved) == 2  # one of them by this test


def test_changed_profile_or_argument_is_retrieved_again(
    model: MllmMsr, retrieved: list[Profile]
) -> None:
    cache, profile = CandidateCache(model), model.users.profile("user3")
    longer = replace(profile, history=(*profile.history, "item1"))
    for changed, n, exclude_seen in [
        (profile, 5, True),
        (profile, 6, True),
        (profile, 6, False),
        (longer, 6, False),
        (replace(longer, preference="squares"), 6, False),
    ]:
        candidates = cache.retrieve(changed, n, exclude_seen=exclude_seen)
        assert candidates == model.retriever.retrieve(changed, n, exclude_seen=exclude_seen)
    assert len(retrieved) == 2 * 5


def test_new_item_is_retrieved_at_once(model: MllmMsr) -> None:
    cache, profile = CandidateCache(model), Profile("u", (), "a zebra")
    before = cache.retrieve(profile, 100, exclude_seen=True)
    row = dict.fromkeys(tables.SUMMARIES, None) | {
        "item_id": "new", "summary": "A zebra", "image_status": "missing", "flags": ""
    }  # fmt: skip
    model.catalog.add(Item("new", "Zebra"), pl.DataFrame([row], schema=dict(tables.SUMMARIES)))
    after = cache.retrieve(profile, 100, exclude_seen=True)
    assert {one.item_id for one in after} == {one.item_id for one in before} | {"new"}


def test_deleted_and_anonymous_users_are_not_cached(
    model: MllmMsr, retrieved: list[Profile]
) -> None:
    cache = CandidateCache(model)
    for _ in range(2):
        for profile in (model.users.profile("user3"), Profile("", ("item1",))):
            cache.retrieve(profile, 5, exclude_seen=True)
        cache.delete_user("user3")
        cache.delete_user("unknown")
    assert len(retrieved) == 4


def test_number_of_cached_candidates_is_limited(
    model: MllmMsr, retrieved: list[Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_msr.serving.candidate_cache._MAX_CANDIDATES", 12)
    cache = CandidateCache(model)
    for user_id in ("user1", "user2", "user1", "user3", "user1", "user2"):
        cache.retrieve(model.users.profile(user_id), 5, exclude_seen=True)
    assert [profile.user_id for profile in retrieved] == ["user1", "user2", "user3", "user2"]


def test_excluded_items_are_left_out_and_replaced(model: MllmMsr) -> None:
    cache, profile = CandidateCache(model), model.users.profile("user3")
    best = [one.item_id for one in cache.retrieve(profile, 6, exclude_seen=True)]
    exclude = frozenset(best[1:3])
    found = cache.retrieve(profile, 4, exclude_seen=True, exclude=exclude)
    assert [one.item_id for one in found] == [best[0], *best[3:6]]
    again = [one.item_id for one in cache.retrieve(profile, 6, exclude_seen=True)]
    assert again == best


def test_candidates_that_lack_a_generator_are_not_kept(
    model: MllmMsr, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, profile = CandidateCache(model), model.users.profile("user3")
    complete = model.retriever.retrieve(profile, 5)
    with monkeypatch.context() as patch:

        def fail(self: CollaborativeGenerator, profile: Profile, n: int) -> Proposals:
            raise OSError(5, "Input/output error")

        patch.setattr(CollaborativeGenerator, "propose", fail)
        found = cache.retrieve(profile, 5, exclude_seen=True)
        assert found
        assert not any("collaborative" in one.generators for one in found)
    assert cache.retrieve(profile, 5, exclude_seen=True) == complete
