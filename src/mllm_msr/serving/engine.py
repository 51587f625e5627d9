"""Online recommendation: events update preferences, and requests return recommendations.

The steps are those of `recommend/recommender.py`, with queues (`request_queue.py`) in front of the
models, caches for candidates and scores, and a database (`state.py`). A request never waits for a
preference: it uses the latest one while an update runs in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from mllm_msr import tables
from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import BackendError, DataError, SettingsError
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.recommender import ZERO_SHOT
from mllm_msr.recommend.arguments import require_known
from mllm_msr.recommend.list_weights import plan_beside, without_weights
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.ab_test import AbTest
from mllm_msr.serving.baseline_ranker import BaselineRanker
from mllm_msr.serving.candidate_cache import CandidateCache
from mllm_msr.serving.image_uploads import thumbnail
from mllm_msr.serving.items import NewItems
from mllm_msr.serving.list_builder import RUN, BuiltList, ListBuilder, ListOptions
from mllm_msr.serving.preference_updates import PreferenceUpdates
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, OverloadedError, QueuedBackend
from mllm_msr.serving.scoring import CandidateScorer, ItemScores
from mllm_msr.serving.state import NewEvent, Removal, ServiceState
from mllm_msr.serving.users import User, UserStore
from mllm_msr.summarization.preference_history import latest_preference
from mllm_msr.types import Item

logger = logging.getLogger(__name__)

_TEXT_TIMEOUT: Final = 120.0  # seconds for a preference or a summary
_TEXT_THREADS: Final = 8
_MAX_FAILED_PROMPTS: Final = 10  # in a row, before the service is not ready


class UnknownHistoryError(DataError):
    """A given history contains items that are not in the catalog."""


class UnknownEventError(DataError):
    """A user has no event of an id."""


class OnlineEngine:
    """Engine behind the HTTP routes.

    Args:
        model: The run.
        state: The service's database; closed with the engine.
        settings: The section `serve`.
        images: Folder for the images of new items.
        metrics: Metrics of the service.

    Attributes:
        settings: The run's settings.
        lists: Builder of lists, with the ranking models.
        users: The known users.
        updates: Background updates of preferences.
        ab_test: The running A/B test, if there is one.
        catalog: The items.
        fine_tuned_models: Names of the fine-tuned ones among the language models.
    """

    def __init__(
        self,
        model: MllmMsr,
        state: ServiceState,
        *,
        settings: ServeSettings,
        images: Path,
        metrics: Metrics,
    ) -> None:
        self._model, self._state = model, state
        self._settings, self._metrics = settings, metrics
        self.settings, self.catalog = model.settings, model.catalog
        models = model.models
        copies = settings.copies or models.default_copies
        open_ranker = functools.partial(models.open_ranker, threads=1 if copies > 1 else None)
        ranker, preference_model = open_ranker(), models.open_preference_model()
        self._ranker_queue = self._queue("scorer", open_ranker, copies=copies)
        self._preference_queue = self._queue("writer", lambda: preference_model)
        queued = functools.partial(
            QueuedBackend,
            self._preference_queue,
            fingerprint=preference_model.fingerprint,
            timeout=_TEXT_TIMEOUT,
        )
        # Lanes, so that no kind of request waits for all prompts of another.
        self._history_backend = queued(lane="histories")
        # Separate from the threads of updates, so that requests do not wait for updates.
        self._threads = ThreadPoolExecutor(_TEXT_THREADS, thread_name_prefix="answer")
        # Single ones: a decoded image may need much memory, and baselines need not be thread-safe.
        self._image_thread = ThreadPoolExecutor(1, thread_name_prefix="image")
        self._baseline_thread = ThreadPoolExecutor(1, thread_name_prefix="baseline")
        self._other_queues: list[ModelQueue] = []  # of `serve.models`
        self.fine_tuned_models = {RUN} if models.fine_tuned else set()
        self._candidates = CandidateCache(model)
        scorers = self._make_scorers(ranker.fingerprint, preference_model.fingerprint)
        self.lists = ListBuilder(model, self._candidates, scorers, self._make_baselines())
        self._database_lock = asyncio.Lock()
        self.ab_test = self._make_ab_test()
        self._warming_up: asyncio.Task[None] | None = None
        self._items = NewItems(
            model,
            state,
            candidates=self._candidates,
            backend=queued(lane="items"),
            database_lock=self._database_lock,
            image_thread=self._image_thread,
            images=images,
            max_pixels=settings.max_pixels,
        )
        self.users = UserStore(model.users, state, database_lock=self._database_lock)
        self.updates = PreferenceUpdates(
            model,
            self.users,
            state,
            queue=self._preference_queue,
            backend=queued(lane="updates"),
            database_lock=self._database_lock,
            settings=settings,
            metrics=metrics,
        )

    def _make_scorers(
        self, ranker_fingerprint: str, preference_fingerprint: str
    ) -> dict[str, CandidateScorer]:
        make_scorer = functools.partial(
            CandidateScorer, catalog=self.catalog, settings=self._settings, metrics=self._metrics
        )
        scorers: dict[str, CandidateScorer] = {
            RUN: make_scorer(
                self._ranker_queue,
                fingerprint=ranker_fingerprint,
                plan=self._model.plan,
                calibration=self._model.models.calibration,
            )
        }
        if self._model.models.has_zero_shot:
            scorers[ZERO_SHOT] = make_scorer(
                self._preference_queue,
                fingerprint=preference_fingerprint,
                # The weights of the run are only valid for its own ranker.
                plan=without_weights(self.settings),
                catalog=self.catalog.without_vectors(),
            )
        for name, path in self._settings.models.items():
            if name in self._model.baselines:
                raise SettingsError([f"serve.models.{name} is the name of a baseline. Change it."])
            other = load_run(path)
            with contextlib.closing(other.models.open_ranker()) as ranker:
                fingerprint = ranker.fingerprint
            if other.models.fine_tuned:
                self.fine_tuned_models.add(name)
            label = re.sub(r"\W", "_", name)  # of metrics
            self._other_queues.append(self._queue(f"model_{label}", other.models.open_ranker))
            scorers[name] = make_scorer(
                self._other_queues[-1],
                fingerprint=fingerprint,
                plan=plan_beside(self._model.plan, other.plan, other.settings),
                catalog=self.catalog.with_prompts_of(other.catalog),
                calibration=other.models.calibration,
            )
        return scorers

    def _make_ab_test(self) -> AbTest | None:
        return AbTest.from_settings(
            self._settings,
            log=self._state.exposures,
            metrics=self._metrics,
            database_lock=self._database_lock,
        )

    def _make_baselines(self) -> dict[str, BaselineRanker]:
        item_ids = sorted(self._model.users.item_counts())
        return {
            name: BaselineRanker(name, baseline, item_ids=item_ids, thread=self._baseline_thread)
            for name, baseline in self._model.baselines.items()
        }

    def _queue(
        self, name: str, open_backend: Callable[[], Backend], *, copies: int = 1
    ) -> ModelQueue:
        queue = ModelQueue(
            open_backend,
            copies=copies,
            max_queue=self._settings.max_queue,
            max_batch=self._settings.max_batch,
            on_batch=self._metrics.batch(name),
        )
        self._metrics.watch_queue(name, lambda: queue.waiting)
        return queue

    async def start(self) -> None:
        """Restore added items, resume unfinished updates, and warm up the ranker."""
        await asyncio.to_thread(self._items.restore)
        self.updates.resume()
        popular = self._model.popular_items()
        if popular:
            n_items = self._settings.warm_items if self._model.models.caches_images else 0
            users = list(self._model.users)
            deleted = await asyncio.to_thread(self._state.deleted_users, users)
            user_id = next((one for one in users if one not in deleted), "")
            profile = self._model.users.profile(user_id)
            warm_up = self.lists.scorers[RUN].warm_up(popular[: 1 + n_items], profile)
            self._warming_up = asyncio.create_task(warm_up)

    async def stop(self) -> None:
        """Wait for running updates within the shutdown timeout, then close all resources."""
        if self._warming_up is not None:
            self._warming_up.cancel()
        await self.updates.stop()
        for queue in (self._ranker_queue, self._preference_queue, *self._other_queues):
            await asyncio.to_thread(queue.close)
        self._items.close()
        for threads in (self._threads, self._image_thread, self._baseline_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self._state.close()

    @property
    def readiness(self) -> tuple[bool, str]:
        """Return whether the ranker scores requests, and its version or the reason if not."""
        if self._ranker_queue.circuit_open:
            return False, "circuit open after repeated failures"
        if not self._ranker_queue.answered:
            return False, "loading"
        n_failed = self.lists.scorers[RUN].n_failed
        if n_failed >= _MAX_FAILED_PROMPTS:
            return False, f"the last {n_failed} prompts failed"
        return True, self.lists.scorers[RUN].version

    @property
    def waiting(self) -> int:
        """Return the number of prompts that wait for the ranker."""
        return self._ranker_queue.waiting

    @property
    def fine_tuned(self) -> bool:
        """Return whether the run's model is fine-tuned."""
        return RUN in self.fine_tuned_models

    async def check(self) -> None:
        """Check that events can be stored; see `ServiceState.check`."""
        await asyncio.to_thread(self._state.check)

    async def add_events(self, events: Sequence[NewEvent]) -> list[str]:
        """Store events and update the preferences of their users.

        Args:
            events: The events, in order.

        Returns:
            "accepted", "duplicate" or "unknown_item" for each event.
        """
        # Look up items once: an item may be added while the database is written.
        known = [index for index, event in enumerate(events) if event.item_id in self.catalog]
        async with self._database_lock:
            user_ids = [events[index].user_id for index in known]
            try:
                new = await asyncio.to_thread(
                    self._state.add_events, [events[index] for index in known]
                )
            finally:  # events may be stored even if the response of the database is lost
                self.users.invalidate(user_ids)
            self.users.add_to_index(user_ids)
        statuses = ["unknown_item"] * len(events)
        for index, is_new in zip(known, new, strict=True):
            statuses[index] = "accepted" if is_new else "duplicate"
        for status in statuses:
            self._metrics.event(status)
        if self.ab_test is not None:
            accepted = zip(events, statuses, strict=True)
            await self.ab_test.record_outcomes(
                [event for event, status in accepted if status == "accepted"]
            )
        for user_id in dict.fromkeys(user_ids):
            self.updates.start(await self.users.get(user_id))
        return statuses

    async def remove_event(self, user_id: str, event_id: str) -> Removal:
        """Remove an event of a user, and update their preference if it was inferred from it.

        Returns:
            "removed", or "already_removed" if an event with this id has been removed before.

        Raises:
            UnknownEventError: The user has no such event.
        """
        result = await self.users.remove_event(user_id, event_id)
        if result == "unknown_event":
            raise UnknownEventError(
                f"The user {user_id!r} has no event {event_id!r}. Use an id that the user's "
                "preference lists in its events."
            )
        if result == "removed":
            self._metrics.event(result)
            self.updates.clear_failure(user_id)
            self.updates.start(await self.users.get(user_id))
        return result

    async def anonymous_user(self, history: Sequence[str]) -> User:
        """Return an anonymous user with an inferred preference; nothing is stored.

        The preference is blank if the model does not respond in time.

        Args:
            history: Item ids, oldest first.

        Raises:
            UnknownHistoryError: An item is not in the catalog.
            OverloadedError: Too many prompts wait for the model.
        """
        try:
            require_known(history, self.catalog)
        except DataError as error:
            raise UnknownHistoryError(str(error)) from error
        items = tuple(history)
        preferences = tables.empty(tables.PREFERENCES)
        try:
            inference = asyncio.get_running_loop().run_in_executor(
                self._threads,
                self._model.update_preferences,
                Profile("", items),
                preferences,
                self._history_backend,
            )
            preferences = await asyncio.wait_for(inference, self._settings.model_timeout)
        except OverloadedError:
            raise
        except (TimeoutError, BackendError) as error:
            logger.warning("No preference was inferred for a given history: %r", error)
        profile = Profile("", items, latest_preference(preferences))
        return User(profile, preferences, known=True)

    def unknown_items(self, item_ids: Sequence[str]) -> list[str]:
        """Return the ids that are not in the catalog, in order and without duplicates."""
        return [item_id for item_id in dict.fromkeys(item_ids) if item_id not in self.catalog]

    async def recommend(self, user: User, options: ListOptions) -> BuiltList:
        """Recommend items to a user; see `ListBuilder.build`."""
        if user.profile.user_id:
            self.updates.start(user)
        return await self.lists.build(user, options)

    async def score(self, user_id: str, item_ids: Sequence[str]) -> ItemScores:
        """Return P(yes) of items for a user; unknown items have no score.

        Raises:
            OverloadedError: Too many prompts wait for the model.
        """
        user = await self.users.get(user_id)
        known = [item_id for item_id in dict.fromkeys(item_ids) if item_id in self.catalog]
        return await self.lists.scorer(RUN).score(user, known)

    async def delete_user(self, user_id: str) -> tuple[int, int]:
        """Delete all data of a user; return the numbers of deleted events and preferences."""
        counts = await self.users.delete(user_id)
        self.updates.clear_failure(user_id)
        await asyncio.to_thread(self._candidates.delete_user, user_id)
        for scorer in self.lists.scorers.values():
            scorer.delete_user(user_id)
        return counts

    async def items(self, item_ids: Sequence[str]) -> list[Item]:
        """Return items of the catalog, without images that cannot be opened now."""
        # In a thread, because an image that was not opened before is decoded.
        return await asyncio.to_thread(lambda: [self.catalog.item(one) for one in item_ids])

    async def thumbnail(self, path: Path) -> bytes:
        """Return a thumbnail of an image, see `image_uploads.thumbnail`."""
        convert = functools.partial(thumbnail, path, max_pixels=self._settings.max_pixels)
        return await asyncio.get_running_loop().run_in_executor(self._image_thread, convert)

    async def add_item(
        self, item: Item, images: Sequence[bytes] = ()
    ) -> tuple[dict[str, Any], bool]:
        """Add an item, see `NewItems.add`."""
        return await self._items.add(item, images)
