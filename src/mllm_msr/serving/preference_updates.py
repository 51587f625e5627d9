"""Users who move: what is known of them, and preferences that follow their events.

A user's history is that of the run folder and the events since; his preference is the newest one
that was written. A request never waits for a preference: it gets the newest there is, while an
update runs beside it, one at a time for each user. An update that fails, as a whole or for a
block whose answer cannot be used, is tried again with growing pauses, a bounded number of times.
A block that never gets an answer is then passed over with the stage's own fallback, flagged, so
that later ones are read; a model that does not answer at all is asked again at the user's next
request.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, final

import polars as pl

from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import MllmMsrError
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import Profile
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, QueuedBackend
from mllm_msr.serving.state import ServiceState, UserState
from mllm_msr.serving.user_index import Directory
from mllm_msr.serving.users import User

logger = logging.getLogger(__name__)

_UPDATES_AT_ONCE: Final = 8
_LONGEST_PAUSE: Final = 60.0  # seconds
_MOST_KNOWN: Final = 2000  # users that are remembered, some 10 kB each
_MOST_FAILURES: Final = 10_000  # that are remembered; a model that is away fails for everybody

_Outcome = Literal["done", "failed", "passed_over", "dropped"]

# Why an update failed where no block's answer was looked at, and where a block got none.
_UNAVAILABLE: Final = "unavailable"
_NO_ANSWER: Final = "error"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the newest preference of a user could not be written so far.

    Attributes:
        reason: What was wrong with the answer (see `answers.Fault`), "error" where the model
            failed on this prompt, "unavailable" where it failed as a whole.
        tries: How often it was tried.
    """

    reason: str
    tries: int


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
        self._directory: Directory | None = None
        self._known: OrderedDict[str, User] = OrderedDict()
        self._n_changes = 0
        self._updates: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, Failure] = {}
        self._stopping = asyncio.Event()
        self._resuming: asyncio.Task[None] | None = None

    async def get(self, user_id: str) -> User:
        """A user, from the database and the run folder, or as they were when last read.

        Nobody else writes the database, so that what is remembered is true until it is said
        that it is to be read again.
        """
        if (known := self._known.get(user_id)) is not None:
            self._known.move_to_end(user_id)
            return known
        n_changes = self._n_changes
        user = self._joined(user_id, await asyncio.to_thread(self._state.user, user_id))
        if n_changes == self._n_changes:  # else it may have been read before the change
            self._known[user_id] = user
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return user

    async def find(self, contains: str, *, limit: int) -> tuple[list[str], int]:
        """Ids of known users that contain a text, case apart, and how many there are of them.

        Args:
            contains: The text; every user where it is empty.
            limit: Most ids to give.

        Returns:
            The first ids in their order, and the number of all that match.
        """
        async with self._writes:  # nobody comes or goes between reading and keeping
            if self._directory is None:
                self._directory = await asyncio.to_thread(self._everybody)
        return await asyncio.to_thread(self._directory.find, contains, limit=limit)

    def note(self, user_ids: Iterable[str]) -> None:
        """Take in users of whom events were kept; `writes` is held."""
        if self._directory is not None:
            for user_id in user_ids:
                self._directory.add(user_id)

    def read_again(self, user_ids: Iterable[str]) -> None:
        """Forget what is remembered of users whose rows were written, or may have been."""
        self._n_changes += 1
        for user_id in user_ids:
            self._known.pop(user_id, None)

    async def forget(self, user_id: str) -> tuple[int, int]:
        """Delete a user; returns how many events and preferences that were."""
        async with self._writes:
            try:
                counts = await asyncio.to_thread(
                    self._state.forget, user_id, in_run=user_id in self._in_run
                )
            finally:
                self.read_again([user_id])
            self._failures.pop(user_id, None)
            if self._directory is not None:
                self._directory.remove(user_id)
        return counts

    def resume(self) -> None:
        """Begin to take up the updates that an earlier service did not finish."""
        self._resuming = asyncio.create_task(self._resume())

    def follow(self, user: User) -> None:
        """Begin an update of a preference that lags behind its history, unless one runs."""
        user_id = user.profile.user_id
        target = self._target(user)
        if target <= user.n_items or user_id in self._updates or self._writer.circuit_open:
            return
        task = asyncio.create_task(self._update(user, target))
        self._updates[user_id] = task
        task.add_done_callback(lambda _: self._updates.pop(user_id, None))

    def updating(self, user_id: str) -> bool:
        """Whether a newer preference of a user is being written."""
        return user_id in self._updates

    def failure(self, user_id: str) -> Failure | None:
        """Why a user's preference lags behind, where trying has failed."""
        return self._failures.get(user_id)

    async def stop(self) -> None:
        """Let updates at work end, within the shutdown_timeout, and cancel the others."""
        self._stopping.set()
        if self._resuming is not None:
            self._resuming.cancel()
        if self._updates:
            await asyncio.wait(self._updates.values(), timeout=self._settings.shutdown_timeout)
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
            logger.warning("updates wait for their users' next requests: %s", error)

    def _joined(self, user_id: str, kept: UserState) -> User:
        """What the run folder knows of a user, and what came since."""
        history = () if kept.forgotten else self._model.history(user_id)
        preference_history = kept.preference_history
        if preference_history.is_empty() and not kept.forgotten:
            preference_history = self._model.preference_history(user_id)
        preference = (
            preference_history.sort("n_items")["preference"][-1]
            if preference_history.height
            else ""
        )
        profile = Profile(user_id, history + kept.events, preference)
        return User(profile, preference_history, known=bool(profile.history))

    def _everybody(self) -> Directory:
        since = set(self._state.users_with_events())
        gone = self._state.forgotten_users() - since
        return Directory(since.union(self._in_run) - gone)

    async def _update(self, user: User, target: int) -> None:
        user_id = user.profile.user_id
        n_failed = 0
        try:
            while target > user.n_items:
                outcome = await self._try(user, target, n_failed=n_failed)
                self._metrics.update(outcome)
                n_failed = n_failed + 1 if outcome == "failed" else 0
                if n_failed > self._settings.update_retries:
                    return
                if n_failed and not await self._pause(n_failed):
                    return
                # More may have come meanwhile.
                user = await self.get(user_id)
                target = self._target(user)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next request tries again
            logger.warning("a preference stays as it was: %s", error)
            self._metrics.update("failed")

    async def _try(self, user: User, target: int, *, n_failed: int) -> _Outcome:
        """Try once to bring a preference up to `target` items."""
        read = Profile(user.profile.user_id, user.profile.history[:target])
        whole = await self._inferred(read, user.preference_history)
        preference_history, reason = _answered(whole, n_read=user.n_items)
        outcome: _Outcome = "done" if reason is None else "failed"
        if reason is not None:
            self._metrics.failed_update(reason)
            if whole is not None and n_failed == self._settings.update_retries:
                preference_history, outcome = whole, "passed_over"
        failure = Failure(reason or "", n_failed + 1) if outcome == "failed" else None
        return outcome if await self._keep(read, preference_history, failure) else "dropped"

    async def _inferred(
        self, read: Profile, preference_history: pl.DataFrame
    ) -> pl.DataFrame | None:
        """The preference_history of all that is to be read; None where the model failed as a whole."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads, self._model.infer, read, preference_history, self._writing
            )
        except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
            logger.warning("a preference stays as it was: %s", error)
            return None

    async def _pause(self, n_failed: int) -> bool:
        """Wait before the next try; False where the service is stopped meanwhile."""
        seconds = min(self._settings.update_wait * 2 ** (n_failed - 1), _LONGEST_PAUSE)
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def _keep(
        self, read: Profile, preference_history: pl.DataFrame | None, failure: Failure | None
    ) -> bool:
        """Keep what a try brought, unless the user was forgotten since it was begun."""
        async with self._writes:
            now = await self.get(read.user_id)
            still = now.profile.history[: len(read.history)] == read.history
            if still and preference_history is not None:
                try:
                    await asyncio.to_thread(
                        self._state.keep_preference_history, read.user_id, preference_history
                    )
                finally:
                    self.read_again([read.user_id])
            self._failures.pop(read.user_id, None)
            if still and failure is not None:
                self._failures[read.user_id] = failure
                while len(self._failures) > _MOST_FAILURES:
                    del self._failures[next(iter(self._failures))]
        return still


def _answered(
    preference_history: pl.DataFrame | None, *, n_read: int
) -> tuple[pl.DataFrame | None, str | None]:
    """What of a new preference_history is worth keeping, None for nothing, and why it is not the whole.

    Args:
        preference_history: `tables.PREFERENCES` of one user; None where there is none.
        n_read: Items that his preference had read before.
    """
    if preference_history is None:
        return None, _UNAVAILABLE
    new = preference_history.filter(pl.col("n_items") > n_read).sort("n_items")
    for n_items, flags in new.select("n_items", "flags").iter_rows():
        found = flags.split(",")
        if "failed" in found:
            reason = next((flag for flag in found if flag != "failed"), _NO_ANSWER)
            before = preference_history.filter(pl.col("n_items") < n_items)
            # Without a new row the old preference_history stays: its open block is not part of the new one.
            return (before if n_items > new["n_items"][0] else None), reason
    return preference_history, None
