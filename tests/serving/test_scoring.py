"""Tests for scoring candidates: cached scores, deleted users, fallback reasons, warm-up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mllm_msr import tables
from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.config.settings import ServeSettings
from mllm_msr.ranker.calibration import IDENTITY, Calibration
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.recommend.profiles import Profile
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue
from mllm_msr.serving.scoring import CandidateScorer, ItemScores
from mllm_msr.serving.users import User
from mllm_msr.types import Message, Prompt, TextPart
from online_worlds import FakeBackend


def prompt(user: object, item_id: str) -> Prompt:
    del user
    return Prompt((Message("user", (TextPart(f'Thing {item_id}"'),)),))


CATALOG: Any = SimpleNamespace(
    prompt=prompt,
    prompt_settings=DEFAULT_PROMPT,
    user_input=lambda profile: UserInput(profile.preference),
)


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    fake = FakeBackend()
    yield fake
    fake.gate.set()


def make_scorer(
    backend: FakeBackend,
    *,
    copies: int = 1,
    catalog: Any = CATALOG,
    calibration: Calibration = IDENTITY,
    **settings: Any,
) -> CandidateScorer:
    queue = ModelQueue(lambda: backend, copies=copies)
    return CandidateScorer(
        queue,
        fingerprint=backend.fingerprint,
        catalog=catalog,
        settings=ServeSettings(**settings),
        metrics=Metrics(),
        calibration=calibration,
    )


def user(preference: str = "calm", user_id: str = "u") -> User:
    profile = Profile(user_id, ("z",), preference)
    return User(profile, tables.empty(tables.PREFERENCES), known=True)


def item_ids(start: int, stop: int) -> list[str]:
    return [str(n) for n in range(start, stop)]


def test_scores_are_cached_per_item_and_preference(backend: FakeBackend) -> None:
    scorer = make_scorer(backend)
    first = asyncio.run(scorer.score(user(), ["1", "2"]))
    assert (sorted(first.values), first.fallback_reason) == (["1", "2"], None)
    more = asyncio.run(scorer.score(user(), ["2", "1", "3"]))
    assert more.values.items() >= first.values.items()
    assert backend.batches == [2, 1]
    asyncio.run(scorer.score(user("loud"), ["1"]))
    assert backend.batches == [2, 1, 1]


def test_scores_depend_on_the_history_if_the_model_reads_it(backend: FakeBackend) -> None:
    catalog = SimpleNamespace(
        prompt=prompt,
        prompt_settings=RecommendSettings(reads="history"),
        user_input=lambda profile: UserInput(history=profile.history),
    )
    scorer = make_scorer(backend, catalog=catalog)
    for preference in ("", "calm"):
        scores = asyncio.run(scorer.score(user(preference), ["1"]))
        assert scores.fallback_reason is None
    longer = User(Profile("u", ("z", "y")), tables.empty(tables.PREFERENCES), known=True)
    asyncio.run(scorer.score(longer, ["1"]))
    assert backend.batches == [1, 1]
    new = User(Profile("u"), tables.empty(tables.PREFERENCES), known=True)
    assert asyncio.run(scorer.score(new, ["1"])).fallback_reason == "no_history"


def test_scores_are_calibrated_in_the_same_order(backend: FakeBackend) -> None:
    calibration = Calibration(temperature=2.0, bias=-1.0)
    plain = asyncio.run(make_scorer(backend).score(user(), item_ids(0, 5))).values
    found = asyncio.run(
        make_scorer(backend, calibration=calibration).score(user(), item_ids(0, 5))
    ).values
    assert sorted(found, key=found.__getitem__) == sorted(plain, key=plain.__getitem__)
    assert list(found.values()) == pytest.approx(list(calibration.apply(list(plain.values()))))
    assert found != plain


def test_all_scores_of_a_deleted_user_are_dropped(backend: FakeBackend) -> None:
    scorer = make_scorer(backend)
    users = [user("calm"), user("loud"), user("calm", "other")]
    for one in users:
        asyncio.run(scorer.score(one, ["1"]))
    scorer.delete_user("u")
    assert {key.user_id for key in scorer._cache} == {"other"}
    for one in users:
        asyncio.run(scorer.score(one, ["1"]))
    assert backend.batches == [1] * 5


def test_scores_that_arrive_after_a_deletion_are_not_cached(backend: FakeBackend) -> None:
    async def delete_meanwhile() -> None:
        scorer = make_scorer(backend)
        scoring = asyncio.create_task(scorer.score(user(), ["1"]))
        while not backend.batches:
            await asyncio.sleep(0.001)
        scorer.delete_user("u")
        backend.gate.set()
        assert (await scoring).fallback_reason is None
        assert not scorer._cache

    backend.gate.clear()
    asyncio.run(delete_meanwhile())


def test_least_recently_used_scores_are_evicted(backend: FakeBackend) -> None:
    scorer = make_scorer(backend, score_cache_size=2)
    asyncio.run(scorer.score(user(), ["1", "2", "3"]))
    asyncio.run(scorer.score(user(), ["2", "3"]))
    assert backend.batches == [3]
    asyncio.run(scorer.score(user(), ["1"]))
    assert backend.batches == [3, 1]


@pytest.mark.parametrize("size", [0, 1])
def test_more_scores_than_the_cache_holds_are_all_returned(backend: FakeBackend, size: int) -> None:
    scorer = make_scorer(backend, score_cache_size=size)
    for _ in range(2):
        scores = asyncio.run(scorer.score(user(), item_ids(0, 9)))
        assert (sorted(scores.values), scores.fallback_reason) == (item_ids(0, 9), None)
    assert backend.batches == [9, 9 - size]


def test_single_failures_are_left_out_and_not_cached(backend: FakeBackend) -> None:
    scorer = make_scorer(backend)
    for _ in range(2):
        scores = asyncio.run(scorer.score(user(), ["13", "4"]))
        assert (list(scores.values), scores.fallback_reason) == (["4"], None)
        assert scores.reason("13", otherwise="not asked") == "scoring_failed"
        assert scores.reason("4", otherwise="not asked") is None
        assert scores.reason("5", otherwise="not asked") == "not asked"
    scores = asyncio.run(scorer.score(user(), ["13"]))
    assert scores == ItemScores({}, frozenset({"13"}), "model_failed")
    assert backend.batches == [2, 1, 1]


def test_fallback_reasons(backend: FakeBackend) -> None:
    scorer = make_scorer(backend, model_timeout=0.02)
    scores = asyncio.run(scorer.score(user(" "), ["1"]))
    assert (scores.values, scores.fallback_reason) == ({}, "no_preference")
    assert scores.reason("1", otherwise="not asked") == "no_preference"
    backend.gate.clear()
    reasons = [asyncio.run(scorer.score(user(), ["1"])).fallback_reason for _ in range(4)]
    assert reasons == ["model_slow"] * 3 + ["model_circuit_open"]


def test_requests_of_several_parts_have_one_deadline(backend: FakeBackend) -> None:
    async def score() -> ItemScores:
        scorer = make_scorer(backend, model_timeout=60.0)
        assert scorer.deadline() > asyncio.get_running_loop().time() + 50
        deadline = asyncio.get_running_loop().time() + 0.02
        return await scorer.score(user(), ["1"], deadline=deadline)

    backend.gate.clear()
    assert asyncio.run(score()) == ItemScores({}, fallback_reason="model_slow")


def test_warm_up_starts_with_one_item_and_continues_in_small_batches(backend: FakeBackend) -> None:
    asyncio.run(make_scorer(backend).warm_up(item_ids(0, 20), user().profile))
    assert backend.batches == [1, 8, 8, 3]


def test_every_copy_warms_up(backend: FakeBackend) -> None:
    asyncio.run(make_scorer(backend, copies=2).warm_up(item_ids(0, 9), user().profile))
    assert backend.batches == [1, 1, 8, 8]
    assert backend.threads == {"model-0", "model-1"}


def test_requests_come_before_the_warm_up(backend: FakeBackend) -> None:
    async def warm_up_and_score() -> None:
        scorer = make_scorer(backend)
        warming_up = asyncio.create_task(scorer.warm_up(item_ids(0, 20), user().profile))
        await asyncio.sleep(0)  # the model now reads the first item
        scores = await scorer.score(user(), item_ids(30, 35))
        assert len(scores.values) == 5
        await warming_up

    backend.gate.clear()
    threading.Timer(0.2, backend.gate.set).start()
    asyncio.run(warm_up_and_score())
    *first, one, two, three = backend.batches  # the first item may share a batch with the request
    assert (sum(first), one, two, three) == (6, 8, 8, 3)


def test_warm_up_stops_if_the_model_fails(backend: FakeBackend) -> None:
    backend.fails = True
    asyncio.run(make_scorer(backend).warm_up(item_ids(0, 20), user().profile))
    assert backend.batches == [1]


def test_failed_prompts_are_counted_until_one_succeeds(
    backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = make_scorer(backend)
    for n in range(1, 4):
        asyncio.run(scorer.score(user(), ["13"]))
        assert scorer.n_failed == n
    asyncio.run(scorer.score(user(), ["13", "4"]))
    assert scorer.n_failed == 0
    assert "1 of 2 items have no score, such as 13: item 13 fails" in caplog.text
