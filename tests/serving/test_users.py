"""Tests for the users of the service: history, cache, index and deletion."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from mllm_msr import tables
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.profiles import Profile
from mllm_msr.serving.state import NewEvent, ServiceState, StoredEvent, UserState
from mllm_msr.serving.users import User, UserStore
from state_checks import PREFERENCE_HISTORY


def test_number_of_items_of_the_latest_preference_does_not_depend_on_row_order() -> None:
    assert User(Profile("u"), PREFERENCE_HISTORY, known=True).n_items == 4
    assert User(Profile("u"), PREFERENCE_HISTORY.reverse(), known=True).n_items == 4


def test_without_a_preference_the_number_of_items_is_zero() -> None:
    assert User(Profile("u"), tables.empty(tables.PREFERENCES), known=False).n_items == 0


class Service:
    """The database and the users of a service."""

    def __init__(self, run: Path, state: ServiceState) -> None:
        self.run_users = load_run(run).users
        self.state = state

    def run(self, work: Callable[[UserStore], Awaitable[None]]) -> None:
        """Run a coroutine with a new user store."""

        async def main() -> None:
            await work(UserStore(self.run_users, self.state, database_lock=asyncio.Lock()))

        asyncio.run(main())

    def add_event(self, users: UserStore, user_id: str, item_id: str) -> None:
        """Store an event, as the engine does."""
        number = len(self.state.user(user_id).history)
        assert self.state.add_events([NewEvent(f"{user_id}-{number}", user_id, item_id)]) == [True]
        users.invalidate([user_id])
        users.add_to_index([user_id])


@pytest.fixture
def service(run: Path, tmp_path: Path) -> Iterator[Service]:
    state = ServiceState(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield Service(run, state)
    state.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record which users are read from the database; "all" for the list of users."""
    calls: list[str] = []
    read_user, read_all = ServiceState.user, ServiceState.users_with_events

    def recorded_user(self: ServiceState, user_id: str) -> UserState:
        calls.append(user_id)
        return read_user(self, user_id)

    def recorded_all(self: ServiceState) -> list[str]:
        calls.append("all")
        return read_all(self)

    monkeypatch.setattr(ServiceState, "user", recorded_user)
    monkeypatch.setattr(ServiceState, "users_with_events", recorded_all)
    return calls


def test_events_continue_the_history_of_the_run_until_the_user_is_deleted(
    service: Service,
) -> None:
    async def work(users: UserStore) -> None:
        before = await users.get("user3")
        service.add_event(users, "user3", "item1")
        after = await users.get("user3")
        assert after.profile.history == (*before.profile.history, "item1")
        assert after.profile.preference == before.profile.preference
        assert await users.delete("user3") == (1, 0)
        deleted = await users.get("user3")
        gone = Profile("user3", was_deleted=True)
        assert (deleted.known, deleted.profile, deleted.n_items) == (False, gone, 0)
        service.state.add_events([NewEvent("new", "user3", "item2")])
        users.invalidate(["user3"])
        returned = await users.get("user3")
        assert returned.profile == Profile("user3", ("item2",), was_deleted=True)

    service.run(work)


def test_preferences_in_the_database_replace_those_of_the_run(service: Service) -> None:
    async def work(users: UserStore) -> None:
        rows = PREFERENCE_HISTORY.with_columns(user_id=pl.lit("user3"))
        service.state.set_preference_history("user3", rows)
        user = await users.get("user3")
        assert (user.profile.preference, user.n_items) == ("second", 4)

    service.run(work)


def test_user_is_read_again_only_after_a_change(service: Service, reads: list[str]) -> None:
    async def work(users: UserStore) -> None:
        for change in (lambda: None, lambda: users.invalidate(["user3"])):
            change()
            assert await users.get("user3") is await users.get("user3")
        assert reads == ["user3"] * 2
        await users.delete("user3")
        assert not (await users.get("user3")).known
        assert reads == ["user3"] * 3

    service.run(work)


def test_least_recently_used_user_is_evicted_and_read_again(
    service: Service, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(users: UserStore) -> None:
        for user_id in ("user1", "user2", "user1", "user3", "user1", "user2"):
            assert (await users.get(user_id)).profile.user_id == user_id
        assert reads == ["user1", "user2", "user3", "user2"]

    monkeypatch.setattr("mllm_msr.serving.users._MAX_CACHED_USERS", 2)
    service.run(work)


def test_user_that_was_read_before_a_change_is_not_cached(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_read, gate = threading.Event(), threading.Event()
    read_user = ServiceState.user

    def slow_read(self: ServiceState, user_id: str) -> UserState:
        state = read_user(self, user_id)
        has_read.set()
        gate.wait(20)
        return state

    async def work(users: UserStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ServiceState, "user", slow_read)
            reading = asyncio.create_task(users.get("new"))
            await asyncio.to_thread(has_read.wait, 20)
        service.add_event(users, "new", "item1")
        gate.set()
        assert (await reading).profile.history == ()
        assert (await users.get("new")).profile.history == ("item1",)

    service.run(work)


def test_index_is_built_once_and_follows_new_and_deleted_users(
    service: Service, reads: list[str]
) -> None:
    async def work(users: UserStore) -> None:
        service.add_event(users, "older", "item1")
        reads.clear()
        assert await users.find("OLD", limit=5) == (["older"], 1)
        users.add_to_index(["newer"])
        assert await users.find("er1", limit=1) == (["user1"], 3)
        assert await users.find("wer", limit=5) == (["newer"], 1)
        for user_id in ("older", "user1"):
            await users.delete(user_id)
        assert await users.find("old", limit=5) == ([], 0)
        assert await users.find("er1", limit=5) == (["user10", "user11"], 2)
        assert reads == ["all"]

    service.run(work)
    service.run(lambda users: _assert_not_found(users, "older"))


async def _assert_not_found(users: UserStore, user_id: str) -> None:
    assert await users.find(user_id, limit=5) == ([], 0)


def test_item_is_disliked_if_its_latest_event_is_a_dislike() -> None:
    kinds = [("a", "dislike"), ("b", "interaction"), ("a", "interaction"), ("b", "dislike")]
    events = tuple(StoredEvent(str(n), item_id, kind) for n, (item_id, kind) in enumerate(kinds))
    user = User(Profile("u"), PREFERENCE_HISTORY, known=True, events=events)
    assert user.dislikes == {"b"}


def test_removed_event_restores_the_preference_of_the_run(service: Service) -> None:
    async def work(users: UserStore) -> None:
        before = await users.get("user3")
        n_run = len(before.profile.history)
        service.add_event(users, "user3", "item1")
        rows = [("user3", n, n_items, f"text {n_items}", True, "") for n, n_items in enumerate(
            (3, n_run + 1)
        )]  # fmt: skip
        history = pl.DataFrame(rows, schema=dict(tables.PREFERENCES), orient="row")
        service.state.set_preference_history("user3", history)
        users.invalidate(["user3"])
        assert (await users.get("user3")).n_items == n_run + 1
        assert await users.remove_event("user3", "user3-0") == "removed"
        after = await users.get("user3")
        assert after.profile == before.profile
        assert after.preference_history.equals(before.preference_history)
        assert await users.remove_event("user3", "user3-0") == "already_removed"
        assert await users.remove_event("user3", "other") == "unknown_event"

    service.run(work)


def test_user_with_only_a_dislike_is_known(service: Service) -> None:
    async def work(users: UserStore) -> None:
        service.state.add_events([NewEvent("1", "shy", "item1", type="dislike")])
        user = await users.get("shy")
        assert (user.known, user.profile.history, user.dislikes) == (True, (), {"item1"})

    service.run(work)
