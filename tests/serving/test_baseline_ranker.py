"""Tests for rankings by baselines: loading once, slow and failing baselines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Recommender
from mllm_msr.recommend.loading import ScoredBaseline, load_run
from mllm_msr.recommend.profiles import Profile
from mllm_msr.serving import baseline_ranker
from mllm_msr.serving.baseline_ranker import BaselineRanker

PROFILE = Profile("someone", ("item1", "item2"))


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def ranker_of(
    scored_run: Path, thread: ThreadPoolExecutor
) -> Callable[[Callable[[], Recommender] | None], BaselineRanker]:
    """Return a function that makes a ranker of item_knn, optionally with another `fitted`."""
    run = load_run(scored_run)
    known = run.baselines["item_knn"]

    def make(fitted: Callable[[], Recommender] | None = None) -> BaselineRanker:
        baseline = ScoredBaseline(known.label, known.version, fitted or known.fitted)
        item_ids = sorted(run.users.item_counts())
        return BaselineRanker("item_knn", baseline, item_ids=item_ids, thread=thread)

    return make


def test_all_items_are_ranked(ranker_of) -> None:
    ranker = ranker_of()
    candidates = asyncio.run(ranker.rank(PROFILE))
    assert {candidate.generators for candidate in candidates} == {("item_knn",)}
    assert len({candidate.item_id for candidate in candidates}) == len(candidates) > 10
    relevance = [candidate.relevance for candidate in candidates]
    assert relevance == sorted(relevance, reverse=True)
    assert asyncio.run(ranker.rank(Profile("someone"))) == []


def test_baseline_is_loaded_once(ranker_of) -> None:
    loaded: list[int] = []
    fitted = ranker_of()._baseline.fitted

    def recorded() -> Recommender:
        loaded.append(1)
        return fitted()

    ranker = ranker_of(recorded)
    assert loaded == []
    assert asyncio.run(ranker.rank(PROFILE)) == asyncio.run(ranker.rank(PROFILE))
    assert loaded == [1]


def test_request_does_not_wait_for_a_slow_baseline(
    ranker_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_ranker, "_WAIT", 0.01)
    gate = threading.Event()
    fitted = ranker_of()._baseline.fitted

    def slow() -> Recommender:
        gate.wait(60)
        return fitted()

    async def main() -> None:
        ranker = ranker_of(slow)
        with pytest.raises(BackendError, match=r"still being loaded\. Try again"):
            await ranker.rank(PROFILE)
        gate.set()
        monkeypatch.setattr(baseline_ranker, "_WAIT", 60)
        assert await ranker.rank(PROFILE)

    asyncio.run(main())


def test_failure_is_reported_without_its_details(
    ranker_of, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Recommender:
        raise OSError("/secret/path is damaged")

    with pytest.raises(BackendError, match=r"failed\. See the log") as raised:
        asyncio.run(ranker_of(fail).rank(PROFILE))
    assert "secret" not in str(raised.value)
    assert "/secret/path is damaged" in caplog.text
