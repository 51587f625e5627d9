"""Users who move: what is known of them, and preferences that follow their events.

A user's history is that of the run folder and the events since; his preference is the newest one
that was written. A request never waits for a preference: it gets the newest there is, while an
update runs beside it, one at a time for each user.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final, final

import polars as pl

from mllm_msr.errors import MllmMsrError
from mllm_msr.recommending import MllmMsr
from mllm_msr.retrieval import Profile
from mllm_msr.serving.batching import ModelQueue, QueuedBackend
from mllm_msr.serving.metrics import Metrics
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.users import User
from mllm_msr.settings import ServeSettings

_log = logging.getLogger(__name__)

_UPDATES_AT_ONCE: Final = 8


@final
class Users:
    """The users of one service, used from its event loop.

    Args:
        model: The run.
        state: What was heard of them since.
        writer: The queue in front of the model that writes preferences.
        writing: The same as a backend.
        writes: Held while the database is written.
        settings: The section `serve`.
        metrics: Told what happens.
    """

    def __init__(
        self,
        model: MllmMsr,
        state: ServiceState,
        *,
        writer: ModelQueue,
        writing: QueuedBackend,
        writes: asyncio.Lock,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self._threads = ThreadPoolExecutor(_UPDATES_AT_ONCE, thread_name_prefix="update")
        self._model = model
        self._state = state
        self._writer = writer
        self._writing = writing
        self._writes = writes
        self._settings = settings
        self._metrics = metrics
        self._in_run = frozenset(model.users)
        self._updates: dict[str, asyncio.Task[None]] = {}
        self._resuming: asyncio.Task[None] | None = None

    async def get(self, user_id: str) -> User:
        """A user, from the database and the run folder."""
        kept = await asyncio.to_thread(self._state.user, user_id)
        history = () if kept.forgotten else self._model.history(user_id)
        trail = kept.trail
        if trail.is_empty() and not kept.forgotten:
            trail = self._model.trail(user_id)
        preference = trail.sort("n_items")["preference"][-1] if trail.height else ""
        profile = Profile(user_id, history + kept.events, preference)
        return User(profile, trail, known=bool(profile.history))

    async def find(self, contains: str, *, limit: int) -> tuple[list[str], int]:
        """Ids of known users that contain a text, case apart, and how many there are of them.

        Args:
            contains: The text; every user where it is empty.
            limit: Most ids to give.

        Returns:
            The first ids in their order, and the number of all that match.
        """

        def search() -> tuple[list[str], int]:
            since = set(self._state.users_with_events())
            gone = self._state.forgotten_users() - since
            wanted = contains.casefold()
            known = since.union(self._in_run) - gone
            found = sorted(user_id for user_id in known if wanted in user_id.casefold())
            return found[:limit], len(found)

        return await asyncio.to_thread(search)

    async def forget(self, user_id: str) -> tuple[int, int]:
        """Delete a user; returns how many events and preferences that were."""
        async with self._writes:
            return await asyncio.to_thread(
                self._state.forget, user_id, in_run=user_id in self._in_run
            )

    def resume(self) -> None:
        """Begin to take up the updates that an earlier service did not finish."""
        self._resuming = asyncio.create_task(self._resume())

    def follow(self, user: User) -> None:
        """Begin an update of a preference that lags behind its history, unless one runs."""
        user_id = user.profile.user_id
        target = self._target(user)
        if target <= user.n_items or user_id in self._updates or self._writer.resting:
            return
        task = asyncio.create_task(self._update(user, target))
        self._updates[user_id] = task
        task.add_done_callback(lambda _: self._updates.pop(user_id, None))

    def updating(self, user_id: str) -> bool:
        """Whether a newer preference of a user is being written."""
        return user_id in self._updates

    async def stop(self) -> None:
        """Let updates at work end, within the grace, and cancel the others."""
        if self._resuming is not None:
            self._resuming.cancel()
        if self._updates:
            await asyncio.wait(self._updates.values(), timeout=self._settings.grace)
        for task in self._updates.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _target(self, user: User) -> int:
        """How many items the preference should have read by now."""
        length = len(user.profile.history)
        if self._settings.update == "event" or not user.n_items:
            return length
        return length - length % self._model.settings.infer.block_size

    async def _resume(self) -> None:
        try:
            for user_id in await asyncio.to_thread(self._state.users_with_events):
                # Not all at once: users whose events come now would stand behind them.
                while len(self._updates) >= _UPDATES_AT_ONCE:
                    first = asyncio.FIRST_COMPLETED
                    await asyncio.wait(self._updates.values(), return_when=first)
                self.follow(await self.get(user_id))
        except MllmMsrError as error:
            _log.warning("updates wait for their users' next requests: %s", error)

    async def _update(self, user: User, target: int) -> None:
        user_id = user.profile.user_id
        loop = asyncio.get_running_loop()
        try:
            while target > user.n_items:
                read = Profile(user_id, user.profile.history[:target])
                trail = await loop.run_in_executor(
                    self._threads, self._model.infer, read, user.trail, self._writing
                )
                kept = await self._keep(read, trail)
                self._metrics.update("done" if kept else "dropped")
                # More may have come meanwhile.
                user = await self.get(user_id)
                target = self._target(user)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next request tries again
            _log.warning("a preference stays as it was: %s", error)
            self._metrics.update("failed")

    async def _keep(self, read: Profile, trail: pl.DataFrame) -> bool:
        """Keep a trail, unless the user was forgotten since it was begun."""
        async with self._writes:
            now = await self.get(read.user_id)
            still = now.profile.history[: len(read.history)] == read.history
            if still:
                await asyncio.to_thread(self._state.keep_trail, read.user_id, trail)
        return still
