"""Tests for concurrent requests: items and events, lists during updates, deleted users."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.profiles import Profile, UserProfiles
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.scoring import CandidateScorer
from mllm_msr.serving.state import NewEvent, ServiceState
from mllm_msr.types import Item
from online_worlds import until

Start = Callable[[], OnlineEngine]


def test_item_added_while_events_wait_does_not_change_their_status(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    add_item = ServiceState.add_item

    def slow_add(self: ServiceState, row: Mapping[str, Any]) -> bool:
        gate.wait(20)
        return add_item(self, row)

    monkeypatch.setattr(ServiceState, "add_item", slow_add)

    async def main() -> None:
        engine = start()
        adding = asyncio.create_task(engine.add_item(Item("late", "Thing 7")))
        await until(engine._database_lock.locked)
        events = [NewEvent("1", "u", "late"), NewEvent("2", "u", "item1")]
        sending = asyncio.create_task(engine.add_events(events))
        await asyncio.sleep(0)  # the item was looked up and is unknown; the events wait
        gate.set()
        assert (await adding)[1]
        assert await sending == ["unknown_item", "accepted"]
        assert await engine.add_events(events) == ["accepted", "duplicate"]
        await engine.stop()

    asyncio.run(main())


def test_warm_up_does_not_use_the_preference_of_a_deleted_user(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    async def warm_up(self: CandidateScorer, item_ids: Any, profile: Profile) -> None:
        shown.append(profile.preference)

    monkeypatch.setattr(CandidateScorer, "warm_up", warm_up)
    monkeypatch.setattr(
        UserProfiles, "profile", lambda self, user_id: Profile(user_id, (), f"what {user_id} likes")
    )

    async def main() -> None:
        engine = start()
        await engine.start()
        await asyncio.sleep(0)
        await engine.delete_user("user0")
        await engine.stop()
        engine = start()
        await engine.start()
        await asyncio.sleep(0)
        await engine.stop()

    asyncio.run(main())
    assert shown == ["what user0 likes", "what user1 likes"]


def test_anonymous_request_does_not_wait_for_updates(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    update = MllmMsr.update_preferences

    def slow_for_known_users(
        self: MllmMsr, profile: Profile, preferences: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        if profile.user_id:
            gate.wait(20)
        return update(self, profile, preferences, backend)

    monkeypatch.setattr(MllmMsr, "update_preferences", slow_for_known_users)

    async def main() -> None:
        engine = start()
        events = [NewEvent(str(n), f"late{n}", "item1") for n in range(20)]
        await engine.add_events(events)
        found = await engine.anonymous_user(["item1", "item2"])
        assert found.profile.preference.startswith("The user appears")
        gate.set()
        await until(lambda: not any(engine.updates.is_running(event[1]) for event in events))
        await engine.stop()

    try:
        asyncio.run(main())
    finally:
        gate.set()


def test_event_is_known_even_if_its_acknowledgment_is_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_events = ServiceState.add_events

    def store_and_fail(self: ServiceState, events: Any) -> list[bool]:
        add_events(self, events)
        raise RunFolderError("The connection is lost. Try again.")

    async def main() -> None:
        engine = start()
        assert not (await engine.users.get("new")).known
        with monkeypatch.context() as patch:
            patch.setattr(ServiceState, "add_events", store_and_fail)
            with pytest.raises(RunFolderError, match="connection is lost"):
                await engine.add_events([NewEvent("1", "new", "item1")])
        assert (await engine.users.get("new")).profile.history == ("item1",)
        assert await engine.add_events([NewEvent("1", "new", "item1")]) == ["duplicate"]
        await engine.stop()

    asyncio.run(main())
