"""Tests for preference updates: order, retries, skipped blocks, restarts, deleted users."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr.config.settings import ServeSettings
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.preference_updates import Failure, PreferenceUpdates
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, QueuedBackend
from mllm_msr.serving.state import NewEvent, ServiceState
from mllm_msr.serving.users import User, UserStore
from online_worlds import FakeBackend, until


class Updates:
    """Preference updates and users on the service's database."""

    def __init__(self, service: Service, settings: ServeSettings) -> None:
        lock = asyncio.Lock()
        self.users = UserStore(service.model.users, service.state, database_lock=lock)
        self.updates = PreferenceUpdates(
            service.model,
            self.users,
            service.state,
            queue=service.queue,
            backend=QueuedBackend(service.queue, fingerprint="fake", timeout=20),
            database_lock=lock,
            settings=settings,
            metrics=service.metrics,
        )

    async def get(self, user_id: str) -> User:
        return await self.users.get(user_id)

    async def start(self, user_id: str) -> None:
        self.updates.start(await self.users.get(user_id))

    async def delete(self, user_id: str) -> None:
        await self.users.delete(user_id)
        self.updates.clear_failure(user_id)

    async def finished(self, user_id: str) -> None:
        """Wait until no update of a user is running."""
        await until(lambda: not self.updates.is_running(user_id))


class Service:
    """One database, a fake model, and a record of what happened."""

    def __init__(self, model: MllmMsr, state: ServiceState) -> None:
        self.model = model
        self.state = state
        self.backend = FakeBackend()
        self.metrics = Metrics()
        self.queue = ModelQueue(lambda: self.backend)
        self.started: list[Updates] = []
        self.read: list[tuple[str, ...]] = []  # histories, in the order of their updates

    def run(self, work: Callable[[Updates], Coroutine[Any, Any, None]], **settings: Any) -> None:
        """Run a coroutine with new updates, then stop them."""

        async def main() -> None:
            values = {"update": "event", "update_wait": 0.001, **settings}
            updates = Updates(self, ServeSettings(**values))
            self.started.append(updates)
            await work(updates)
            await updates.updates.stop()

        asyncio.run(main())

    def add_events(self, user_id: str, *item_ids: str) -> None:
        """Store events of a user, as the engine does."""
        rows = [NewEvent(secrets.token_hex(), user_id, item_id) for item_id in item_ids]
        assert all(self.state.add_events(rows))
        for updates in self.started:
            updates.users.invalidate([user_id])

    def n_updates(self, outcome: str) -> int:
        return self._count("preference_updates", f'outcome="{outcome}"')

    def n_failures(self, reason: str) -> int:
        return self._count("failed_preference_updates", f'reason="{reason}"')

    def _count(self, name: str, label: str) -> int:
        series = f"mllm_msr_{name}_total{{{label}}} "
        lines = self.metrics.text().decode().splitlines()
        return sum(int(float(line.removeprefix(series))) for line in lines if series in line)


@pytest.fixture
def service(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    state = ServiceState(f"sqlite:///{tmp_path / 'state.sqlite'}")
    made = Service(MllmMsr.from_run(run), state)
    update = MllmMsr.update_preferences

    def recorded(
        self: MllmMsr, profile: Profile, preferences: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        made.read.append(profile.history)
        return update(self, profile, preferences, backend)

    monkeypatch.setattr(MllmMsr, "update_preferences", recorded)
    yield made
    made.backend.gate.set()
    made.queue.close()
    state.close()


def test_events_during_an_update_are_processed_after_it_in_order(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", "item1")
        service.backend.gate.clear()
        await updates.start("new")
        await until(lambda: service.backend.batches)
        service.add_events("new", "item2", "item3")
        await updates.start("new")
        await updates.start("new")
        assert updates.updates.is_running("new")
        service.backend.gate.set()
        await updates.finished("new")
        assert (await updates.get("new")).n_items == 3

    service.run(work)
    assert service.read == [("item1",), ("item1", "item2", "item3")]
    assert service.n_updates("done") == 2


def test_up_to_date_preference_is_not_updated(service: Service) -> None:
    async def work(updates: Updates) -> None:
        await updates.start("user3")
        await updates.finished("user3")
        for user_id in ("user3", "unknown"):
            await updates.start(user_id)
            assert not updates.updates.is_running(user_id)

    service.run(work)
    assert service.read == [service.model.users.history("user3")]


@pytest.mark.parametrize("unexpected", [False, True])
def test_failed_update_keeps_the_preference_and_is_resumed_at_the_next_start(
    service: Service, unexpected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(updates: Updates) -> None:
        service.add_events("user3", "item1")
        before = await updates.get("user3")
        updates.updates.start(before)
        await updates.finished("user3")
        after = await updates.get("user3")
        assert (after.profile.preference, after.n_items) == (
            before.profile.preference, before.n_items,
        )  # fmt: skip
        assert service.n_updates("failed") == 1
        assert updates.updates.failure("user3") == Failure("unavailable", 1)

    async def resume(updates: Updates) -> None:
        updates.updates.resume()
        await until(lambda: service.n_updates("done") == 1)
        user = await updates.get("user3")
        assert user.n_items == len(user.profile.history)
        assert updates.updates.failure("user3") is None

    with monkeypatch.context() as patch:
        if unexpected:
            patch.setattr(MllmMsr, "update_preferences", lambda *_: 1 // 0)
        service.backend.fails = True
        service.run(fail, update_retries=0)
    service.backend.fails = False
    service.run(resume)


def test_block_with_an_unusable_answer_is_retried(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", "item1", "item2")
        service.backend.is_garbled = lambda _: True
        await updates.start("new")
        await until(lambda: (updates.updates.failure("new") or Failure("", 0)).tries == 2)
        assert updates.updates.is_running("new")
        assert updates.updates.failure("new") == Failure("garbage", 2)
        assert (await updates.get("new")).n_items == 0
        service.backend.is_garbled = lambda _: False
        await updates.finished("new")
        user = await updates.get("new")
        assert (user.n_items, user.preference_history["flags"].to_list()) == (2, [""])
        assert updates.updates.failure("new") is None

    service.run(work, update_retries=10, update_wait=0.05)
    assert service.n_updates("done") == 1
    assert service.n_failures("garbage") == service.n_updates("failed") >= 2


def test_block_without_a_usable_answer_is_skipped_and_later_blocks_are_inferred(
    service: Service,
) -> None:
    service.backend.is_garbled = lambda text: "square" in text  # items with even numbers

    async def work(updates: Updates) -> None:
        service.add_events("new", *(f"item{n}" for n in (1, 3, 5, 6, 7, 9, 11)))
        await updates.start("new")
        await updates.finished("new")
        preferences = (await updates.get("new")).preference_history.sort("block")
        assert preferences["n_items"].to_list() == [3, 6, 7]
        assert preferences["flags"].to_list() == ["", "failed,garbage", ""]
        assert preferences["preference"][0] == preferences["preference"][1]
        assert updates.updates.failure("new") is None

    service.run(work, update_retries=2)
    assert (service.n_failures("garbage"), service.n_updates("failed")) == (3, 2)
    assert service.n_updates("skipped") == 1


def test_blocks_before_a_failed_one_are_stored(service: Service) -> None:
    service.backend.is_garbled = lambda text: "square" in text  # items with even numbers

    async def work(updates: Updates) -> None:
        service.add_events("new", *(f"item{n}" for n in (1, 3, 5, 6, 7)))
        await updates.start("new")
        await until(lambda: updates.updates.failure("new"))
        assert (await updates.get("new")).n_items == 3
        assert service.state.user("new").preference_history["n_items"].to_list() == [3]

    service.run(work, update_wait=60)


def test_open_block_that_fails_with_a_further_item_keeps_its_preference(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", *(f"item{n}" for n in range(1, 5)))
        await updates.start("new")
        await updates.finished("new")
        before = await updates.get("new")
        service.backend.is_garbled = lambda _: True
        service.add_events("new", "item5")
        await updates.start("new")
        await until(lambda: updates.updates.failure("new"))
        after = await updates.get("new")
        assert after.preference_history.equals(before.preference_history)
        assert after.profile.preference == before.profile.preference

    service.run(work, update_wait=60)


def test_pause_does_not_delay_the_shutdown_and_ends_with_the_user(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.backend.fails = True
        for user_id in ("deleted", "new"):
            service.add_events(user_id, "item1")
            await updates.start(user_id)
        await until(lambda: updates.updates.failure("deleted") and updates.updates.failure("new"))
        await updates.delete("deleted")
        assert updates.updates.failure("deleted") is None
        assert updates.updates.failure("new") == Failure("unavailable", 1)
        assert updates.updates.is_running("new")

    started = time.monotonic()
    service.run(work, update_wait=60)
    assert time.monotonic() - started < 10


def test_pauses_double_up_to_a_minute(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []
    wait_for = asyncio.wait_for

    async def recorded(awaitable: Any, timeout: float | None) -> Any:
        pauses.append(timeout)
        return await wait_for(awaitable, 0.001)

    async def work(updates: Updates) -> None:
        service.backend.fails = True
        service.add_events("new", "item1")
        await updates.start("new")
        await updates.finished("new")

    monkeypatch.setattr(asyncio, "wait_for", recorded)
    service.run(work, update_retries=6, update_wait=2.0)
    assert pauses == [2, 4, 8, 16, 32, 60]
    assert service.n_failures("unavailable") == 7


def test_oldest_failure_is_evicted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_msr.serving.preference_updates._MAX_FAILURES", 1)

    async def work(updates: Updates) -> None:
        service.backend.fails = True
        for user_id in ("first", "second"):
            service.add_events(user_id, "item1")
            await updates.start(user_id)
            await updates.finished(user_id)
        assert updates.updates.failure("first") is None
        assert updates.updates.failure("second") == Failure("unavailable", 1)

    service.run(work, update_retries=0)


def test_user_deleted_during_an_update_stays_deleted(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("user3", "item1")
        service.backend.gate.clear()
        await updates.start("user3")
        await until(lambda: service.backend.batches)
        await updates.delete("user3")
        service.backend.gate.set()
        await updates.finished("user3")
        assert service.state.user("user3").preference_history.is_empty()
        assert not (await updates.get("user3")).known

    service.run(work)
    assert (service.n_updates("dropped"), service.n_updates("done")) == (1, 0)


def test_update_started_with_an_outdated_user_stores_only_events_since_the_deletion(
    service: Service,
) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("user3", "item1")
        outdated = await updates.get("user3")
        await updates.delete("user3")
        service.add_events("user3", "item2")
        updates.updates.start(outdated)
        await updates.finished("user3")
        assert (await updates.get("user3")).profile.history == ("item2",)
        assert service.state.user("user3").preference_history["n_items"].to_list() == [1]

    service.run(work)
    assert service.read[1:] == [("item2",)]


def test_no_update_starts_while_the_circuit_is_open(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", "item1")
        for _ in range(3):
            service.queue.record_timeout()
        await updates.start("new")
        assert not updates.updates.is_running("new")

    service.run(work)


def test_resumed_updates_run_a_few_at_a_time(service: Service) -> None:
    late = [f"late{n:02}" for n in range(20)]
    for user_id in late:
        service.add_events(user_id, "item1")

    async def work(updates: Updates) -> None:
        service.backend.gate.clear()
        updates.updates.resume()
        await until(lambda: len(service.read) == 8)
        await asyncio.sleep(0.05)
        running = [updates.updates.is_running(user_id) for user_id in late]
        assert running == [True] * 8 + [False] * 12
        service.backend.gate.set()
        await until(lambda: service.n_updates("done") == 20)

    service.run(work)


def test_shutdown_waits_for_updates_within_its_timeout(service: Service) -> None:
    async def quick(updates: Updates) -> None:
        service.add_events("new", "item1")
        service.backend.gate.clear()
        await updates.start("new")
        threading.Timer(0.05, service.backend.gate.set).start()

    async def blocked(updates: Updates) -> None:
        service.add_events("new", "item2")
        service.backend.gate.clear()
        await updates.start("new")

    service.run(quick)
    assert service.state.user("new").preference_history["n_items"].to_list() == [1]
    started = time.monotonic()
    service.run(blocked, shutdown_timeout=0.05)
    assert time.monotonic() - started < 10
    assert service.state.user("new").preference_history["n_items"].to_list() == [1]


def test_requested_update_includes_incomplete_blocks(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", "item1")
        await updates.start("new")
        await updates.finished("new")
        service.add_events("new", "item2")
        user = await updates.get("new")
        await updates.start("new")
        assert not updates.updates.is_running("new")
        assert updates.updates.n_missing(user) == 1
        assert updates.updates.start_now(user)
        assert updates.updates.n_missing(user) == 0
        await updates.finished("new")
        user = await updates.get("new")
        assert (user.n_items, updates.updates.n_missing(user)) == (2, 1)
        assert not updates.updates.start_now(user)
        # A request holds for one update.
        service.add_events("new", "item3", "item4")
        await updates.start("new")
        await updates.finished("new")
        assert (await updates.get("new")).n_items == 3

    service.run(work, update="block")


def test_update_that_is_requested_while_one_runs_is_not_lost(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", "item1", "item2", "item3", "item4")
        service.backend.gate.clear()
        user = await updates.get("new")
        updates.updates.start(user)
        await until(lambda: service.backend.batches)
        service.add_events("new", "item5")
        assert updates.updates.start_now(await updates.get("new"))
        service.backend.gate.set()
        await updates.finished("new")
        assert (await updates.get("new")).n_items == 5

    service.run(work, update="block")


def test_update_of_a_removed_event_is_dropped(service: Service) -> None:
    async def work(updates: Updates) -> None:
        service.add_events("new", "item1", "item2")
        event_id = (await updates.get("new")).events[0].event_id
        service.backend.gate.clear()
        await updates.start("new")
        await until(lambda: service.backend.batches)
        assert await updates.users.remove_event("new", event_id) == "removed"
        service.backend.gate.set()
        await updates.finished("new")
        user = await updates.get("new")
        assert (user.profile.history, user.n_items) == (("item2",), 1)

    service.run(work)
    assert service.n_updates("dropped") == 1
