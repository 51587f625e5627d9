"""A model's scores: asked once, kept within bounds, forgotten, or missing for a reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mllm_msr import tables
from mllm_msr.config.settings import ServeSettings
from mllm_msr.recommend.retrieval import Profile
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue
from mllm_msr.serving.scoring import Judge
from mllm_msr.serving.users import User
from mllm_msr.types import Message, Prompt, TextPart
from online_worlds import MoodyBackend

CATALOGUE: Any = SimpleNamespace(
    prompt=lambda preference, item_id: Prompt((Message("user", (TextPart(f'Thing {item_id}"'),)),))
)


@pytest.fixture
def backend() -> Iterator[MoodyBackend]:
    made = MoodyBackend()
    yield made
    made.gate.set()


def judge(backend: MoodyBackend, *, copies: int = 1, **settings: Any) -> Judge:
    queue = ModelQueue(lambda: backend, copies=copies)
    return Judge(
        queue,
        fingerprint=backend.fingerprint,
        catalogue=CATALOGUE,
        settings=ServeSettings(**settings),
        metrics=Metrics(),
    )


def user(preference: str = "calm", user_id: str = "u") -> User:
    profile = Profile(user_id, ("z",), preference)
    return User(profile, tables.empty(tables.PREFERENCES), known=True)


def test_what_was_asked_once_is_remembered(backend: MoodyBackend) -> None:
    asked = judge(backend)
    first, reason = asyncio.run(asked.ask(user(), ["1", "2"]))
    assert (sorted(first), reason) == (["1", "2"], None)
    assert asyncio.run(asked.ask(user(), ["2", "1", "3"]))[0].items() >= first.items()
    assert backend.batches == [2, 1]
    asyncio.run(asked.ask(user("loud"), ["1"]))
    assert backend.batches == [2, 1, 1]


def test_a_forgotten_users_scores_are_gone_whatever_his_preference_was(
    backend: MoodyBackend,
) -> None:
    asked = judge(backend)
    ones = [user("calm"), user("loud"), user("calm", "other")]
    for one in ones:
        asyncio.run(asked.ask(one, ["1"]))
    asked.forget("u")
    assert {key.user_id for key in asked._scores} == {"other"}
    for one in ones:
        asyncio.run(asked.ask(one, ["1"]))
    assert backend.batches == [1] * 5


def test_scores_that_arrive_for_a_user_who_was_forgotten_meanwhile_are_not_kept(
    backend: MoodyBackend,
) -> None:
    async def forgotten_meanwhile() -> None:
        asked = judge(backend)
        asking = asyncio.create_task(asked.ask(user(), ["1"]))
        while not backend.batches:
            await asyncio.sleep(0.001)
        asked.forget("u")
        backend.gate.set()
        assert (await asking)[1] is None
        assert not asked._scores

    backend.gate.clear()
    asyncio.run(forgotten_meanwhile())


def test_the_oldest_scores_leave_first(backend: MoodyBackend) -> None:
    asked = judge(backend, score_cache_size=2)
    asyncio.run(asked.ask(user(), ["1", "2", "3"]))
    asyncio.run(asked.ask(user(), ["2", "3"]))
    assert backend.batches == [3]
    asyncio.run(asked.ask(user(), ["1"]))
    assert backend.batches == [3, 1]


def test_single_failures_are_left_out_and_not_remembered(backend: MoodyBackend) -> None:
    asked = judge(backend)
    for _ in range(2):
        found, reason = asyncio.run(asked.ask(user(), ["13", "4"]))
        assert (list(found), reason) == (["4"], None)
    assert asyncio.run(asked.ask(user(), ["13"])) == ({}, "model_failed")
    assert backend.batches == [2, 1, 1]


def test_reasons(backend: MoodyBackend) -> None:
    asked = judge(backend, model_timeout=0.02)
    assert asyncio.run(asked.ask(user(" "), ["1"])) == ({}, "no_preference")
    backend.gate.clear()
    found = [asyncio.run(asked.ask(user(), ["1"]))[1] for _ in range(4)]
    assert found == ["model_slow"] * 3 + ["model_circuit_open"]


def test_warming_up_begins_with_one_item_and_leaves_room_for_users(backend: MoodyBackend) -> None:
    asyncio.run(judge(backend).warm_up([str(n) for n in range(20)], "calm"))
    assert backend.batches == [1, 8, 8, 3]


def test_every_copy_reads_the_items(backend: MoodyBackend) -> None:
    asyncio.run(judge(backend, copies=2).warm_up([str(n) for n in range(9)], "calm"))
    assert backend.batches == [1, 1, 8, 8]
    assert backend.threads == {"model-0", "model-1"}


def test_warming_up_gives_way_to_users(backend: MoodyBackend) -> None:
    async def both() -> None:
        asked = judge(backend)
        warming = asyncio.create_task(asked.warm_up([str(n) for n in range(20)], "calm"))
        await asyncio.sleep(0)  # its first item is with the model
        found, _ = await asked.ask(user(), [str(n) for n in range(30, 35)])
        assert len(found) == 5
        await warming

    backend.gate.clear()
    threading.Timer(0.2, backend.gate.set).start()
    asyncio.run(both())
    *first, one, two, three = backend.batches  # what waits with the first item may go with it
    assert (sum(first), one, two, three) == (6, 8, 8, 3)


def test_a_failing_model_is_not_warmed_up_further(backend: MoodyBackend) -> None:
    backend.fails = True
    asyncio.run(judge(backend).warm_up([str(n) for n in range(20)], "calm"))
    assert backend.batches == [1]
