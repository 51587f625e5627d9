"""Users who move: one update at a time, in order, taken up again, dropped for the forgotten."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr.config.settings import ServeSettings
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import Profile
from mllm_msr.serving.preference_updates import Failure, Users
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, QueuedBackend
from mllm_msr.serving.state import ServiceState, UserState
from online_worlds import MoodyBackend


class Moving:
    """Users over one database, and what became of the updates that they were given."""

    def __init__(self, model: MllmMsr, state: ServiceState) -> None:
        self.model = model
        self.state = state
        self.backend = MoodyBackend()
        self.metrics = Metrics()
        self.writer = ModelQueue(lambda: self.backend)
        self.made: list[Users] = []
        self.read: list[tuple[str, ...]] = []  # histories, in the order in which they were read

    def n_failures(self, reason: str) -> int:
        wanted = f'mllm_msr_failed_preference_updates_total{{reason="{reason}"}} '
        lines = self.metrics.text().decode().splitlines()
        return sum(int(float(line.removeprefix(wanted))) for line in lines if wanted in line)

    def users(self, **settings: Any) -> Users:
        users = Users(
            self.model,
            self.state,
            writer=self.writer,
            writing=QueuedBackend(self.writer, fingerprint="moody", timeout=20),
            writes=asyncio.Lock(),
            settings=ServeSettings(**{"update": "event", "update_wait": 0.001, **settings}),
            metrics=self.metrics,
        )
        self.made.append(users)
        return users

    def met(self, user_id: str, *item_ids: str) -> None:
        """Keep events of a user."""
        known = len(self.state.user(user_id).events)
        names = [f"{user_id}-{known + n}" for n in range(len(item_ids))]
        rows = [(name, user_id, item, None) for name, item in zip(names, item_ids, strict=True)]
        assert all(self.state.add_events(rows))
        for users in self.made:
            users.read_again([user_id])
            users.note([user_id])

    def n_updates(self, outcome: str) -> int:
        wanted = f'mllm_msr_preference_updates_total{{outcome="{outcome}"}} '
        lines = self.metrics.text().decode().splitlines()
        return sum(int(float(line.removeprefix(wanted))) for line in lines if wanted in line)


@pytest.fixture
def moving(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    state = ServiceState(f"sqlite:///{tmp_path / 'state.sqlite'}")
    made = Moving(MllmMsr.from_run(run), state)
    infer = MllmMsr.infer

    def watched(
        self: MllmMsr, profile: Profile, preference_history: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        made.read.append(profile.history)
        return infer(self, profile, preference_history, backend)

    monkeypatch.setattr(MllmMsr, "infer", watched)
    yield made
    made.backend.gate.set()
    made.writer.close()
    state.close()


def run_with(make: Callable[[], Users], work: Callable[[Users], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        users = make()
        await work(users)
        await users.stop()

    asyncio.run(main())


async def follow(users: Users, user_id: str) -> None:
    users.follow(await users.get(user_id))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def test_events_that_come_during_an_update_are_read_after_it_in_their_order(
    moving: Moving,
) -> None:
    async def work(users: Users) -> None:
        moving.met("new", "item1")
        moving.backend.gate.clear()
        await follow(users, "new")
        await until(lambda: moving.backend.batches)
        moving.met("new", "item2", "item3")
        await follow(users, "new")
        await follow(users, "new")
        assert users.updating("new")
        moving.backend.gate.set()
        await until(lambda: not users.updating("new"))
        assert (await users.get("new")).n_items == 3

    run_with(moving.users, work)
    assert moving.read == [("item1",), ("item1", "item2", "item3")]
    assert moving.n_updates("done") == 2


def test_a_preference_that_has_read_everything_is_left_alone(moving: Moving) -> None:
    async def work(users: Users) -> None:
        await follow(users, "user3")
        await until(lambda: not users.updating("user3"))
        for user_id in ("user3", "nobody"):
            await follow(users, user_id)
            assert not users.updating(user_id)

    run_with(moving.users, work)
    assert moving.read == [moving.model.history("user3")]


def test_events_continue_the_runs_history_unless_it_is_forgotten(moving: Moving) -> None:
    async def work(users: Users) -> None:
        before = await users.get("user3")
        moving.met("user3", "item1")
        after = await users.get("user3")
        assert after.profile.history == (*before.profile.history, "item1")
        assert after.profile.preference == before.profile.preference
        assert await users.forget("user3") == (1, 0)
        gone = await users.get("user3")
        assert (gone.known, gone.profile, gone.n_items) == (False, Profile("user3"), 0)

    run_with(moving.users, work)


@pytest.mark.parametrize("unexpected", [False, True])
def test_an_update_that_fails_leaves_the_preference_and_is_made_up_for_at_the_next_start(
    moving: Moving, unexpected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(users: Users) -> None:
        moving.met("user3", "item1")
        before = await users.get("user3")
        users.follow(before)
        await until(lambda: not users.updating("user3"))
        after = await users.get("user3")
        assert (after.profile.preference, after.n_items) == (
            before.profile.preference, before.n_items,
        )  # fmt: skip
        assert moving.n_updates("failed") == 1
        assert users.failure("user3") == Failure("unavailable", 1)

    async def resume(users: Users) -> None:
        users.resume()
        await until(lambda: moving.n_updates("done") == 1)
        user = await users.get("user3")
        assert user.n_items == len(user.profile.history)
        assert users.failure("user3") is None

    with monkeypatch.context() as patch:
        if unexpected:  # as of a table of another version
            patch.setattr(MllmMsr, "infer", lambda *_: 1 // 0)
        moving.backend.fails = True
        run_with(lambda: moving.users(update_retries=0), fail)
    moving.backend.fails = False
    run_with(moving.users, resume)


def test_a_block_without_a_usable_answer_is_tried_again(moving: Moving) -> None:
    async def work(users: Users) -> None:
        moving.met("new", "item1", "item2")
        moving.backend.spoils = lambda _: True
        await follow(users, "new")
        await until(lambda: (users.failure("new") or Failure("", 0)).tries == 2)
        assert users.updating("new")
        assert users.failure("new") == Failure("garbage", 2)
        assert (await users.get("new")).n_items == 0
        moving.backend.spoils = lambda _: False
        await until(lambda: not users.updating("new"))
        user = await users.get("new")
        assert (user.n_items, user.preference_history["flags"].to_list()) == (2, [""])
        assert users.failure("new") is None

    run_with(lambda: moving.users(update_retries=10, update_wait=0.05), work)
    assert moving.n_updates("done") == 1
    assert moving.n_failures("garbage") == moving.n_updates("failed") >= 2


def test_a_block_that_never_gets_an_answer_is_passed_over_and_later_ones_are_read(
    moving: Moving,
) -> None:
    moving.backend.spoils = lambda text: "square" in text  # even items are squares

    async def work(users: Users) -> None:
        moving.met("new", *(f"item{n}" for n in (1, 3, 5, 6, 7, 9, 11)))
        await follow(users, "new")
        await until(lambda: not users.updating("new"))
        preference_history = (await users.get("new")).preference_history.sort("block")
        assert preference_history["n_items"].to_list() == [3, 6, 7]
        assert preference_history["flags"].to_list() == ["", "failed,garbage", ""]
        assert preference_history["preference"][0] == preference_history["preference"][1]
        assert users.failure("new") is None

    run_with(lambda: moving.users(update_retries=2), work)
    assert (moving.n_failures("garbage"), moving.n_updates("failed")) == (3, 2)
    assert moving.n_updates("passed_over") == 1


def test_blocks_before_the_one_that_failed_are_kept_and_not_asked_for_again(
    moving: Moving,
) -> None:
    moving.backend.spoils = lambda text: "square" in text  # even items are squares

    async def work(users: Users) -> None:
        moving.met("new", *(f"item{n}" for n in (1, 3, 5, 6, 7)))
        await follow(users, "new")
        await until(lambda: users.failure("new"))
        assert (await users.get("new")).n_items == 3
        assert moving.state.user("new").preference_history["n_items"].to_list() == [3]

    run_with(lambda: moving.users(update_wait=60), work)


def test_an_open_block_that_fails_with_one_item_more_keeps_its_preference(moving: Moving) -> None:
    async def work(users: Users) -> None:
        moving.met("new", *(f"item{n}" for n in range(1, 5)))
        await follow(users, "new")
        await until(lambda: not users.updating("new"))
        before = await users.get("new")
        moving.backend.spoils = lambda _: True
        moving.met("new", "item5")
        await follow(users, "new")
        await until(lambda: users.failure("new"))
        after = await users.get("new")
        assert after.preference_history.equals(before.preference_history)
        assert after.profile.preference == before.profile.preference

    run_with(lambda: moving.users(update_wait=60), work)


def test_a_pause_does_not_hold_up_the_end_nor_outlive_the_user(moving: Moving) -> None:
    async def work(users: Users) -> None:
        moving.backend.fails = True
        for user_id in ("gone", "new"):
            moving.met(user_id, "item1")
            await follow(users, user_id)
        await until(lambda: users.failure("gone") and users.failure("new"))
        await users.forget("gone")
        assert users.failure("gone") is None
        assert users.failure("new") == Failure("unavailable", 1)
        assert users.updating("new")

    begun = time.monotonic()
    run_with(lambda: moving.users(update_wait=60), work)
    assert time.monotonic() - begun < 10


def test_pauses_grow(moving: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []
    wait_for = asyncio.wait_for

    async def watched(awaitable: Any, timeout: float | None) -> Any:
        waited.append(timeout)
        return await wait_for(awaitable, 0.001)

    async def work(users: Users) -> None:
        moving.backend.fails = True
        moving.met("new", "item1")
        await follow(users, "new")
        await until(lambda: not users.updating("new"))

    monkeypatch.setattr(asyncio, "wait_for", watched)
    run_with(lambda: moving.users(update_retries=6, update_wait=2.0), work)
    assert waited == [2, 4, 8, 16, 32, 60]
    assert moving.n_failures("unavailable") == 7


def test_whoever_is_deleted_while_his_update_runs_stays_deleted(moving: Moving) -> None:
    async def work(users: Users) -> None:
        moving.met("user3", "item1")
        moving.backend.gate.clear()
        await follow(users, "user3")
        await until(lambda: moving.backend.batches)
        await users.forget("user3")
        moving.backend.gate.set()
        await until(lambda: not users.updating("user3"))
        assert moving.state.user("user3").preference_history.is_empty()
        assert not (await users.get("user3")).known

    run_with(moving.users, work)
    assert (moving.n_updates("dropped"), moving.n_updates("done")) == (1, 0)


def test_an_update_begun_with_what_was_known_before_a_deletion_keeps_nothing(
    moving: Moving,
) -> None:
    async def work(users: Users) -> None:
        moving.met("user3", "item1")
        before = await users.get("user3")
        await users.forget("user3")
        moving.met("user3", "item2")
        users.follow(before)
        await until(lambda: not users.updating("user3"))
        assert (await users.get("user3")).profile.history == ("item2",)
        assert moving.state.user("user3").preference_history["n_items"].to_list() == [1]

    run_with(moving.users, work)
    assert moving.read[1:] == [("item2",)]


def test_who_is_known_is_read_once_and_follows_who_comes_and_goes(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    every_user = ServiceState.users_with_events

    def watched(self: ServiceState) -> list[str]:
        reads.append("all")
        return every_user(self)

    monkeypatch.setattr(ServiceState, "users_with_events", watched)

    async def work(users: Users) -> None:
        moving.met("older", "item1")
        assert await users.find("OLD", limit=5) == (["older"], 1)
        users.note(["newer"])
        assert await users.find("er1", limit=1) == (["user1"], 3)
        assert await users.find("wer", limit=5) == (["newer"], 1)
        for user_id in ("older", "user1"):
            await users.forget(user_id)
        assert await users.find("old", limit=5) == ([], 0)
        assert await users.find("er1", limit=5) == (["user10", "user11"], 2)

    run_with(moving.users, work)
    assert reads == ["all"]


def test_a_user_is_read_once_until_something_changes(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = ServiceState.user

    def watched(self: ServiceState, user_id: str) -> UserState:
        reads.append(user_id)
        return read(self, user_id)

    async def work(users: Users) -> None:
        monkeypatch.setattr(ServiceState, "user", watched)
        for change in (lambda: None, lambda: users.read_again(["user3"])):
            change()
            assert await users.get("user3") is await users.get("user3")
        assert reads == ["user3"] * 2
        await users.forget("user3")
        assert not (await users.get("user3")).known
        monkeypatch.setattr("mllm_msr.serving.preference_updates._MOST_KNOWN", 1)
        for user_id in ("user1", "user2", "user1"):
            await users.get(user_id)
        assert reads == ["user3"] * 3 + ["user1", "user2", "user1"]

    run_with(moving.users, work)


def test_what_was_read_before_a_change_is_not_remembered(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()
    read = ServiceState.user

    def slowly(self: ServiceState, user_id: str) -> UserState:
        found = read(self, user_id)
        begun.set()
        gate.wait(20)
        return found

    async def work(users: Users) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ServiceState, "user", slowly)
            reading = asyncio.create_task(users.get("new"))
            await until(begun.is_set)
        moving.met("new", "item1")
        gate.set()
        assert (await reading).profile.history == ()
        assert (await users.get("new")).profile.history == ("item1",)

    run_with(moving.users, work)


def test_a_circuit_open_writer_is_not_asked(moving: Moving) -> None:
    async def work(users: Users) -> None:
        moving.met("new", "item1")
        for _ in range(3):
            moving.writer.note_timeout()
        await follow(users, "new")
        assert not users.updating("new")

    run_with(moving.users, work)


def test_a_start_takes_up_few_updates_at_a_time_and_in_the_end_all(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [f"late{n:02}" for n in range(20)]
    for user_id in late:
        moving.met(user_id, "item1")

    async def work(users: Users) -> None:
        moving.backend.gate.clear()
        users.resume()
        await until(lambda: len(moving.read) == 8)
        await asyncio.sleep(0.05)
        assert [users.updating(user_id) for user_id in late] == [True] * 8 + [False] * 12
        moving.backend.gate.set()
        await until(lambda: moving.n_updates("done") == 20)

    run_with(moving.users, work)


def test_stopping_waits_for_updates_but_not_longer_than_the_shutdown_timeout(
    moving: Moving,
) -> None:
    async def quick(users: Users) -> None:
        moving.met("new", "item1")
        moving.backend.gate.clear()
        await follow(users, "new")
        threading.Timer(0.05, moving.backend.gate.set).start()

    async def hanging(users: Users) -> None:
        moving.met("new", "item2")
        moving.backend.gate.clear()
        await follow(users, "new")

    run_with(moving.users, quick)
    assert moving.state.user("new").preference_history["n_items"].to_list() == [1]
    begun = time.monotonic()
    run_with(lambda: moving.users(shutdown_timeout=0.05), hanging)
    assert time.monotonic() - begun < 10
    assert moving.state.user("new").preference_history["n_items"].to_list() == [1]
