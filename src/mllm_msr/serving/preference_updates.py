"""Background updates of preferences after events.

Requests never wait for a preference: they use the latest one while an update runs in the
background, at most one per user. An update that fails, because the model fails or returns an
unusable response for a block, is retried a limited number of times with exponential backoff. If a
block still has no usable response, it is skipped: it keeps the previous preference, flagged as
failed, and the update continues with later blocks. If the model itself fails, the user's next
request starts the update again.

With `serve.update=block`, an update waits until a block of the history is complete, unless a client
requests it earlier.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, final

import polars as pl
from cachetools import LRUCache

from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import MllmMsrError
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, QueuedBackend
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.users import User, UserStore

logger = logging.getLogger(__name__)

_MAX_CONCURRENT: Final = 8
_MAX_PAUSE: Final = 60.0  # seconds
_MAX_FAILURES: Final = 10_000  # stored failures; a model that is down fails for all users

_Outcome = Literal["done", "failed", "skipped", "dropped"]

# Reasons of failures without a response: the model itself failed, or failed on one prompt.
_UNAVAILABLE: Final = "unavailable"
_NO_ANSWER: Final = "error"


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why the latest preference of a user could not be generated so far.

    Attributes:
        reason: Failed check of the response (see `summarization/output_checks.py`), "error" if
            the model failed on the prompt, "unavailable" if the model itself failed.
        tries: Number of failed attempts.
    """

    reason: str
    tries: int


@final
class PreferenceUpdates:
    """Background updates of preferences, for use from the service's event loop.

    Args:
        model: The run.
        users: The users of the service.
        state: The service's database.
        queue: Queue in front of the preference model.
        backend: Backend that puts prompts into this queue.
        database_lock: Held while the database is written.
        settings: The section `serve`.
        metrics: Counts updates by outcome, and failures by reason.
    """

    def __init__(
        self,
        model: MllmMsr,
        users: UserStore,
        state: ServiceState,
        *,
        queue: ModelQueue,
        backend: QueuedBackend,
        database_lock: asyncio.Lock,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._users = users
        self._state = state
        self._queue = queue
        self._backend = backend
        self._database_lock = database_lock
        self._settings = settings
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_MAX_CONCURRENT, thread_name_prefix="update")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._requested: set[str] = set()  # users whose running update includes incomplete blocks
        self._failures: LRUCache[str, Failure] = LRUCache(_MAX_FAILURES)
        self._stopping = asyncio.Event()
        self._resuming: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """Start the updates that an earlier process did not finish, in the background."""
        self._resuming = asyncio.create_task(self._resume())

    async def _resume(self) -> None:
        try:
            for user_id in await asyncio.to_thread(self._state.users_with_events):
                # Start a few at a time, so that updates after new events do not wait for all.
                while len(self._tasks) >= _MAX_CONCURRENT:
                    first = asyncio.FIRST_COMPLETED
                    await asyncio.wait(self._tasks.values(), return_when=first)
                self.start(await self._users.get(user_id))
        except MllmMsrError as error:
            logger.warning("Unfinished updates start with each user's next request: %s", error)

    def start(self, user: User) -> None:
        """Start an update if the preference is outdated and no update is running."""
        user_id = user.profile.user_id
        target = self._target(user)
        if target <= user.n_items or user_id in self._tasks or self._queue.circuit_open:
            return
        task = asyncio.create_task(self._update(user, target))
        self._tasks[user_id] = task

    def start_now(self, user: User) -> bool:
        """Start an update to the full history, even if its last block is incomplete.

        A running update continues to the full history. A restart of the service does not repeat
        the request.

        Returns:
            Whether an update is running; False if the preference is not outdated, or if the model
            is paused after repeated failures.
        """
        user_id = user.profile.user_id
        if len(user.profile.history) > user.n_items:
            self._requested.add(user_id)
            self.start(user)
        if user_id not in self._tasks:
            self._requested.discard(user_id)
        return user_id in self._tasks

    def n_missing(self, user: User) -> int | None:
        """Return how many interactions are missing until the next update; 0 if one is due.

        It is None if the run has no preferences.
        """
        if not self._model.settings.infer.enabled:
            return None
        if self._target(user) > user.n_items:
            return 0
        if self._settings.update == "event" or not user.n_items:
            return 1
        block_size = self._model.settings.infer.block_size
        return block_size - len(user.profile.history) % block_size

    def is_running(self, user_id: str) -> bool:
        """Return whether an update of the user's preference is running."""
        return user_id in self._tasks

    def failure(self, user_id: str) -> Failure | None:
        """Return the reason why a user's preference is outdated; `None` if no attempt failed."""
        return self._failures.get(user_id)

    def clear_failure(self, user_id: str) -> None:
        """Clear the failed attempts of a user."""
        self._failures.pop(user_id, None)

    async def stop(self) -> None:
        """Wait up to `serve.shutdown_timeout` for running updates, then cancel them."""
        self._stopping.set()
        if self._resuming is not None:
            self._resuming.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._settings.shutdown_timeout)
        for task in self._tasks.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _target(self, user: User) -> int:
        """Return the number of items that the preference should be inferred from.

        It is 0 if the run has no preferences.
        """
        if not self._model.settings.infer.enabled:
            return 0
        length = len(user.profile.history)
        reads_all = self._settings.update == "event" or not user.n_items
        if reads_all or user.profile.user_id in self._requested:
            return length
        return length - length % self._model.settings.infer.block_size

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
                # More events may have arrived.
                user = await self._users.get(user_id)
                target = self._target(user)
        except Exception as error:  # noqa: BLE001 - the next request starts the update again
            logger.warning("Updating a preference failed: %s", error)
            self._metrics.update("failed")
        finally:
            # In the same step as the last comparison with the target, so that no request is lost.
            self._tasks.pop(user_id, None)
            self._requested.discard(user_id)

    async def _try(self, user: User, target: int, *, n_failed: int) -> _Outcome:
        """Try to update a preference to `target` items."""
        profile = Profile(user.profile.user_id, user.profile.history[:target])
        preferences: pl.DataFrame | None = None
        try:
            preferences = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                self._model.update_preferences,
                profile,
                user.preference_history,
                self._backend,
            )
        except Exception as error:  # noqa: BLE001 - the update is retried
            logger.warning("Updating a preference failed: %s", error)
        usable, reason = _usable_rows(preferences, n_read=user.n_items)
        outcome: _Outcome = "done" if reason is None else "failed"
        if reason is not None:
            self._metrics.failed_update(reason)
            if preferences is not None and n_failed == self._settings.update_retries:
                usable, outcome = preferences, "skipped"
        failure = Failure(reason or "", n_failed + 1) if outcome == "failed" else None
        return outcome if await self._store(profile, usable, failure) else "dropped"

    async def _pause(self, n_failed: int) -> bool:
        """Wait before the next attempt; return False if the service stops in the meantime."""
        seconds = min(self._settings.update_wait * 2 ** (n_failed - 1), _MAX_PAUSE)
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def _store(
        self, profile: Profile, preferences: pl.DataFrame | None, failure: Failure | None
    ) -> bool:
        """Store the result of an attempt; return False if the user was deleted since its start."""
        async with self._database_lock:
            now = await self._users.get(profile.user_id)
            unchanged = now.profile.history[: len(profile.history)] == profile.history
            if unchanged and preferences is not None:
                try:
                    await asyncio.to_thread(
                        self._state.set_preference_history, profile.user_id, preferences
                    )
                finally:
                    self._users.invalidate([profile.user_id])
            self.clear_failure(profile.user_id)
            if unchanged and failure is not None:
                self._failures[profile.user_id] = failure
        return unchanged


def _usable_rows(
    preferences: pl.DataFrame | None, *, n_read: int
) -> tuple[pl.DataFrame | None, str | None]:
    """Return the rows of a new preference history that can be stored, and why others cannot.

    Args:
        preferences: `tables.PREFERENCES` of one user; `None` if the model itself failed.
        n_read: Number of items that the previous preference was inferred from.

    Returns:
        The rows before the first failed block, `None` if there is no new one; and the reason of
        the failure, `None` if all rows can be stored.
    """
    if preferences is None:
        return None, _UNAVAILABLE
    new = preferences.filter(pl.col("n_items") > n_read).sort("n_items")
    for n_items, flags in new.select("n_items", "flags").iter_rows():
        names = flags.split(",")
        if "failed" in names:
            reason = next((name for name in names if name != "failed"), _NO_ANSWER)
            before = preferences.filter(pl.col("n_items") < n_items)
            # Without a new row, keep the old history: it contains the row of the incomplete block,
            # which the new history does not.
            return (before if n_items > new["n_items"][0] else None), reason
    return preferences, None
