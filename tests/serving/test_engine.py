"""Requests that meet: items and events at the same time, updates beside lists, forgotten users."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import Profile
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.scoring import Judge
from mllm_msr.serving.state import ServiceState
from mllm_msr.types import Item

Start = Callable[[], OnlineEngine]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def test_an_item_that_arrives_while_events_wait_changes_no_status(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    add_item = ServiceState.add_item

    def slowly(self: ServiceState, row: Mapping[str, Any]) -> bool:
        gate.wait(20)
        return add_item(self, row)

    monkeypatch.setattr(ServiceState, "add_item", slowly)

    async def main() -> None:
        engine = start()
        adding = asyncio.create_task(engine.add_item(Item("late", "Thing 7"), None))
        await until(engine._writes.locked)
        events = [("1", "u", "late", None), ("2", "u", "item1", None)]
        sending = asyncio.create_task(engine.add_events(events))
        await asyncio.sleep(0)  # it has seen that the item is unknown, and waits
        gate.set()
        assert (await adding)[1]
        assert await sending == ["unknown_item", "accepted"]
        assert await engine.add_events(events) == ["accepted", "duplicate"]
        await engine.stop()

    asyncio.run(main())


def test_the_model_is_not_warmed_up_with_a_forgotten_users_preference(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    async def warm_up(self: Judge, item_ids: Any, preference: str) -> None:
        shown.append(preference)

    monkeypatch.setattr(Judge, "warm_up", warm_up)
    monkeypatch.setattr(MllmMsr, "preference", lambda self, user_id: f"what {user_id} likes")

    async def main() -> None:
        engine = start()
        await engine.start()
        await asyncio.sleep(0)
        await engine.forget("user0")
        await engine.stop()
        engine = start()
        await engine.start()
        await asyncio.sleep(0)
        await engine.stop()

    asyncio.run(main())
    assert shown == ["what user0 likes", "what user1 likes"]


def test_somebody_who_waits_does_not_stand_behind_updates(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    infer = MllmMsr.infer

    def slow_for_users(
        self: MllmMsr, profile: Profile, preference_history: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        if profile.user_id:
            gate.wait(20)
        return infer(self, profile, preference_history, backend)

    monkeypatch.setattr(MllmMsr, "infer", slow_for_users)

    async def main() -> None:
        engine = start()
        events = [(str(n), f"late{n}", "item1", None) for n in range(20)]
        await engine.add_events(events)
        found = await engine.anonymous(["item1", "item2"])
        assert found.profile.preference.startswith("The user appears")
        gate.set()
        await until(lambda: not any(engine.users.updating(event[1]) for event in events))
        await engine.stop()

    try:
        asyncio.run(main())
    finally:
        gate.set()


def test_an_event_whose_acknowledgement_got_lost_is_known_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_events = ServiceState.add_events

    def kept_but_lost(self: ServiceState, events: Any) -> list[bool]:
        add_events(self, events)
        raise RunFolderError(needed="an answer", received="none", remedy="ask again")

    async def main() -> None:
        engine = start()
        assert not (await engine.users.get("new")).known
        with monkeypatch.context() as patch:
            patch.setattr(ServiceState, "add_events", kept_but_lost)
            with pytest.raises(RunFolderError):
                await engine.add_events([("1", "new", "item1", None)])
        assert (await engine.users.get("new")).profile.history == ("item1",)
        assert await engine.add_events([("1", "new", "item1", None)]) == ["duplicate"]
        await engine.stop()

    asyncio.run(main())
