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

from mllm_msr.interfaces import Backend
from mllm_msr.recommending import MllmMsr
from mllm_msr.retrieval import Profile
from mllm_msr.serving.batching import ModelQueue, QueuedBackend
from mllm_msr.serving.following import Users
from mllm_msr.serving.metrics import Metrics
from mllm_msr.serving.state import ServiceState
from mllm_msr.settings import ServeSettings
from online_worlds import MoodyBackend


class Moving:
    """Users over one database, and what became of the updates that they were given."""

    def __init__(self, model: MllmMsr, state: ServiceState) -> None:
        self.model = model
        self.state = state
        self.backend = MoodyBackend()
        self.metrics = Metrics()
        self.writer = ModelQueue(lambda: self.backend)
        self.read: list[tuple[str, ...]] = []  # histories, in the order in which they were read

    def users(self, **settings: Any) -> Users:
        return Users(
            self.model,
            self.state,
            writer=self.writer,
            writing=QueuedBackend(self.writer, identity="moody", timeout=20),
            writes=asyncio.Lock(),
            settings=ServeSettings(**{"update": "event", **settings}),
            metrics=self.metrics,
        )

    def met(self, user_id: str, *item_ids: str) -> None:
        """Keep events of a user."""
        known = len(self.state.user(user_id).events)
        names = [f"{user_id}-{known + n}" for n in range(len(item_ids))]
        rows = [(name, user_id, item, None) for name, item in zip(names, item_ids, strict=True)]
        assert all(self.state.add_events(rows))

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
        self: MllmMsr, profile: Profile, trail: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        made.read.append(profile.history)
        return infer(self, profile, trail, backend)

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

    async def resume(users: Users) -> None:
        users.resume()
        await until(lambda: moving.n_updates("done") == 1)
        user = await users.get("user3")
        assert user.n_items == len(user.profile.history)

    with monkeypatch.context() as patch:
        if unexpected:  # as of a table of another version
            patch.setattr(MllmMsr, "infer", lambda *_: 1 // 0)
        moving.backend.fails = True
        run_with(moving.users, fail)
    moving.backend.fails = False
    run_with(moving.users, resume)


def test_whoever_is_deleted_while_his_update_runs_stays_deleted(moving: Moving) -> None:
    async def work(users: Users) -> None:
        moving.met("user3", "item1")
        moving.backend.gate.clear()
        await follow(users, "user3")
        await until(lambda: moving.backend.batches)
        await users.forget("user3")
        moving.backend.gate.set()
        await until(lambda: not users.updating("user3"))
        assert moving.state.user("user3").trail.is_empty()
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
        assert moving.state.user("user3").trail["n_items"].to_list() == [1]

    run_with(moving.users, work)
    assert moving.read[1:] == [("item2",)]


def test_a_resting_writer_is_not_asked(moving: Moving) -> None:
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


def test_stopping_waits_for_updates_but_not_longer_than_the_grace(moving: Moving) -> None:
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
    assert moving.state.user("new").trail["n_items"].to_list() == [1]
    begun = time.monotonic()
    run_with(lambda: moving.users(grace=0.05), hanging)
    assert time.monotonic() - begun < 10
    assert moving.state.user("new").trail["n_items"].to_list() == [1]
