"""The online flow: events -> preference, user -> candidates -> scores -> list.

The same steps as offline (`preferences.py`, `retrieval.py`, the recommender's prompt), with the
queue of `batching.py` in front of the models and the database of `state.py` behind. A request
never waits for a preference: it gets the newest one there is, while an update runs beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import polars as pl

from mllm_msr import tables
from mllm_msr.errors import BackendError, MllmMsrError
from mllm_msr.recommender.scorer import probability
from mllm_msr.recommending import (
    CHOICES,
    FallbackReason,
    MllmMsr,
    RecommendationList,
    assemble,
    missing,
)
from mllm_msr.records import ChoiceScores, Item
from mllm_msr.retrieval import Candidate, Profile
from mllm_msr.serving.batching import ModelQueue, OverloadedError, QueuedBackend, RestingError
from mllm_msr.serving.metrics import Metrics
from mllm_msr.serving.pictures import as_png, keep_picture
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.users import ItemExistsError, User
from mllm_msr.settings import ServeSettings
from mllm_msr.summaries import summarize

_log = logging.getLogger(__name__)

_WRITING_TIMEOUT: Final = 120.0
_UPDATES_AT_ONCE: Final = 8


class OnlineEngine:
    """Everything that the routes do.

    Args:
        model: The run.
        state: What must not be lost; closed with the engine.
        settings: The section `serve`.
        pictures: Folder for the pictures of new items.
        metrics: Told what happens.
    """

    def __init__(
        self,
        model: MllmMsr,
        state: ServiceState,
        *,
        settings: ServeSettings,
        pictures: Path,
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._state = state
        self._settings = settings
        self._pictures = pictures
        self._metrics = metrics
        scorer, writer = model.open_backend(), model.open_writer()
        self.model_version = hashlib.sha256(scorer.identity.encode()).hexdigest()[:12]
        bounds = {"max_queue": settings.max_queue, "max_batch": settings.max_batch}
        self._scorer = ModelQueue(lambda: scorer, on_batch=metrics.batch("scorer"), **bounds)
        self._writer = ModelQueue(lambda: writer, on_batch=metrics.batch("writer"), **bounds)
        metrics.watch_queue("scorer", lambda: self._scorer.waiting)
        metrics.watch_queue("writer", lambda: self._writer.waiting)
        self._writing = QueuedBackend(
            self._writer, identity=writer.identity, timeout=_WRITING_TIMEOUT
        )
        self._threads = ThreadPoolExecutor(_UPDATES_AT_ONCE, thread_name_prefix="update")
        self._catalogue_lock = threading.Lock()
        self._writes = asyncio.Lock()
        self._updates: dict[str, asyncio.Task[None]] = {}
        self._forgotten: dict[str, int] = {}
        self._scores: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def start(self) -> None:
        """Take up what an earlier service left: its items, and updates that it did not finish."""
        for row in await asyncio.to_thread(lambda: list(self._state.items())):
            self._add_to_catalogue(row)
        for user_id in await asyncio.to_thread(self._state.users_with_events):
            self._follow(await self.user(user_id))
        first = next(iter(self._model.catalogue), None)
        if first is not None:
            # Loads the model now, not while the first user waits.
            self._scorer.score([self._model.catalogue.prompt("", first)], CHOICES)

    async def stop(self) -> None:
        """Let updates at work end, within the grace; then close everything."""
        if self._updates:
            await asyncio.wait(self._updates.values(), timeout=self._settings.grace)
        for task in self._updates.values():
            task.cancel()
        await asyncio.to_thread(self._scorer.close)
        await asyncio.to_thread(self._writer.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._state.close()

    @property
    def readiness(self) -> tuple[bool, str]:
        """Whether the model takes part, and a word on it."""
        if self._scorer.resting:
            return False, "resting after failures"
        return True, f"{self.model_version}"

    @property
    def waiting(self) -> int:
        """Prompts that wait for the recommender."""
        return self._scorer.waiting

    @property
    def n_items(self) -> int:
        """Items that can be recommended."""
        return len(self._model.catalogue)

    def title(self, item_id: str) -> str:
        """An item's title."""
        return self._model.catalogue.item(item_id).title

    async def check(self) -> None:
        """Make sure that the database answers; see `ServiceState.check`."""
        await asyncio.to_thread(self._state.check)

    async def user(self, user_id: str) -> User:
        """A user, from the database and the run folder."""
        kept = await asyncio.to_thread(self._state.user, user_id)
        history = () if kept.forgotten else self._model.history(user_id)
        trail = kept.trail
        if trail.is_empty() and not kept.forgotten:
            trail = self._model.trail(user_id)
        preference = trail.sort("n_items")["preference"][-1] if trail.height else ""
        profile = Profile(user_id, history + kept.events, preference)
        return User(profile, trail, known=bool(profile.history))

    async def add_events(self, events: Sequence[tuple[str, str, str, int | None]]) -> list[str]:
        """Keep events and let the preferences of their users follow.

        Args:
            events: As for `ServiceState.add_events`.

        Returns:
            "accepted", "duplicate" or "unknown_item" for each.
        """
        known = [event for event in events if event[2] in self._model.catalogue]
        async with self._writes:
            new = iter(await asyncio.to_thread(self._state.add_events, known))
        statuses = []
        for event in events:
            status = "unknown_item"
            if event[2] in self._model.catalogue:
                status = "accepted" if next(new) else "duplicate"
            statuses.append(status)
            self._metrics.event(status)
        for user_id in dict.fromkeys(event[1] for event in known):
            self._follow(await self.user(user_id))
        return statuses

    async def recommend(
        self,
        user: User,
        *,
        k: int,
        budget: int | None,
        exclude_seen: bool,
        candidate_ids: Sequence[str] | None = None,
    ) -> RecommendationList:
        """A list for a user.

        Raises:
            OverloadedError: Too many prompts wait.
        """
        if user.profile.user_id:
            self._follow(user)
        spend = self._model.settings.retrieve.budget if budget is None else budget
        if candidate_ids is None:
            candidates = await asyncio.to_thread(
                self._retrieve, user.profile, max(k, spend), exclude_seen
            )
        else:
            candidates = self._given(user.profile, candidate_ids, exclude_seen=exclude_seen)
            spend = len(candidates) if budget is None else budget
        reason: FallbackReason | None = None
        scores: dict[str, float] = {}
        if spend:
            asked = [candidate.item_id for candidate in candidates[:spend]]
            scores, reason = await self._ask(user, asked)
        return assemble(
            self._model.catalogue,
            user.profile,
            candidates,
            scores,
            k=k,
            diversity=self._model.settings.retrieve.diversity,
            # Where the client has chosen the candidates, their order says nothing.
            order=self._model.settings.retrieve.order if candidate_ids is None else "model",
            reason=reason,
        )

    async def anonymous(self, history: Sequence[str]) -> User:
        """Somebody described by what he has met; his preference is inferred, nothing is kept.

        Where the model does not answer in time there is no preference.
        """
        known = tuple(item_id for item_id in history if item_id in self._model.catalogue)
        profile = Profile("", known)
        trail = tables.empty(tables.PREFERENCES)
        if known:
            try:
                work = self._in_thread(self._model.infer, profile, trail, self._writing)
                trail = await asyncio.wait_for(work, self._settings.model_timeout)
            except OverloadedError:
                raise
            except (TimeoutError, BackendError) as error:
                _log.warning("no preference for a given history: %s", repr(error))
        preference = trail["preference"][-1] if trail.height else ""
        return User(Profile("", known, preference), trail, known=True)

    async def score(
        self, user_id: str, item_ids: Sequence[str]
    ) -> tuple[dict[str, float], FallbackReason | None]:
        """P(yes) of those of the items that are known, and why they are missing if they are.

        Raises:
            OverloadedError: Too many prompts wait.
        """
        user = await self.user(user_id)
        known = [item_id for item_id in dict.fromkeys(item_ids) if item_id in self._model.catalogue]
        return await self._ask(user, known)

    async def forget(self, user_id: str) -> tuple[int, int]:
        """Delete a user everywhere; returns how many events and preferences that were."""
        self._forgotten[user_id] = self._forgotten.get(user_id, 0) + 1
        user = await self.user(user_id)
        async with self._writes:
            in_run = bool(self._model.history(user_id))
            counts = await asyncio.to_thread(self._state.forget, user_id, in_run=in_run)
        texts = set(user.trail["preference"])
        for key in [key for key in self._scores if key[0] in texts]:
            del self._scores[key]
        return counts

    async def add_item(self, item: Item, image: bytes | None) -> tuple[dict[str, Any], bool]:
        """Summarise a new item and make it a candidate for everyone.

        Args:
            item: Id, title and text.
            image: A picture's file, `None` without one.

        Returns:
            Its row in the database, and whether it is new (else it was there, the same).

        Raises:
            ItemExistsError: There is another item under this id.
            ImageError: The picture cannot be opened safely.
        """
        content = repr((item.title, item.text, image)).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content).hexdigest()
        kept = await asyncio.to_thread(self._state.item, item.item_id)
        if kept is not None and kept["digest"] == digest:
            return dict(kept), False
        if kept is not None or item.item_id in self._model.catalogue:
            raise ItemExistsError(
                needed="an id that no item has",
                received=repr(item.item_id),
                remedy="choose another id; items are not changed",
            )
        png = await asyncio.to_thread(as_png, image, item.item_id) if image else None
        shown = Item(item.item_id, item.title, item.text, keep_picture(self._pictures, digest, png))
        summaries = await self._in_thread(self._summarise, shown)
        row = {
            **summaries.row(0, named=True),
            "title": item.title,
            "text": item.text,
            "image": png,
            "digest": digest,
        }
        async with self._writes:
            new = await asyncio.to_thread(self._state.add_item, row)
        if new:
            self._add_to_catalogue(row)
        return row, new

    def _follow(self, user: User) -> None:
        """Begin an update of a preference that lags behind its history, unless one runs."""
        user_id = user.profile.user_id
        target = self._target(user)
        if target <= user.n_items or user_id in self._updates or self._writer.resting:
            return
        task = asyncio.create_task(self._update(user, target))
        self._updates[user_id] = task
        task.add_done_callback(lambda _: self._updates.pop(user_id, None))

    def _target(self, user: User) -> int:
        """How many items the preference should have read by now."""
        length = len(user.profile.history)
        if self._settings.update == "event" or not user.n_items:
            return length
        return length - length % self._model.settings.infer.block_size

    async def _update(self, user: User, target: int) -> None:
        user_id = user.profile.user_id
        while target > user.n_items:
            epoch = self._forgotten.get(user_id, 0)
            read = Profile(user_id, user.profile.history[:target])
            try:
                trail = await self._in_thread(self._model.infer, read, user.trail, self._writing)
                async with self._writes:
                    if self._forgotten.get(user_id, 0) == epoch:
                        await asyncio.to_thread(self._state.keep_trail, user_id, trail)
            except MllmMsrError as error:
                _log.warning("a preference stays as it was: %s", error)
                self._metrics.update("failed")
                return
            self._metrics.update("done")
            # More may have come meanwhile.
            user = await self.user(user_id)
            target = self._target(user)

    async def _ask(
        self, user: User, item_ids: Sequence[str]
    ) -> tuple[dict[str, float], FallbackReason | None]:
        """Scores by item, from memory where they are, and why some are missing."""
        reason = missing(user.profile, known_user=user.known)
        if reason is not None:
            self._metrics.fallback(reason)
            return {}, reason
        preference = user.profile.preference
        found = {
            item_id: self._scores[preference, item_id]
            for item_id in item_ids
            if (preference, item_id) in self._scores
        }
        rest = [item_id for item_id in item_ids if item_id not in found]
        if not rest:
            return found, None
        try:
            answers = await self._answers(preference, rest)
        except OverloadedError:
            raise
        except RestingError:
            reason = "model_resting"
        except TimeoutError:
            self._scorer.note_timeout()
            reason = "model_slow"
        except Exception as error:  # noqa: BLE001 - whatever a model does, users get a list
            _log.warning("answered without the model: %s", error)
            reason = "model_failed"
        else:
            new = self._understood(rest, answers)
            self._remember(preference, new)
            found |= new
            reason = None if found else "model_failed"
        if reason is not None:
            self._metrics.fallback(reason)
        return found, reason

    async def _answers(self, preference: str, item_ids: Sequence[str]) -> list[ChoiceScores]:
        prompts = [self._model.catalogue.prompt(preference, item_id) for item_id in item_ids]
        waiting = asyncio.wrap_future(self._scorer.score(prompts, CHOICES))
        answers = await asyncio.wait_for(waiting, self._settings.model_timeout)
        return cast("list[ChoiceScores]", answers)

    @staticmethod
    def _understood(item_ids: Sequence[str], answers: Sequence[ChoiceScores]) -> dict[str, float]:
        scores = {}
        for item_id, answer in zip(item_ids, answers, strict=True):
            score, error = probability(answer)
            if error is None:
                scores[item_id] = score
            else:
                _log.warning("item %s has no score: %s", item_id, error)
        return scores

    def _remember(self, preference: str, scores: dict[str, float]) -> None:
        for item_id, score in scores.items():
            self._scores[preference, item_id] = score
        while len(self._scores) > self._settings.kept_scores:
            self._scores.popitem(last=False)

    def _retrieve(self, profile: Profile, n: int, exclude_seen: bool) -> list[Candidate]:
        with self._catalogue_lock:
            return self._model.retriever.retrieve(profile, n, exclude_seen=exclude_seen)

    def _given(
        self, profile: Profile, item_ids: Sequence[str], *, exclude_seen: bool
    ) -> list[Candidate]:
        seen = set(profile.history if exclude_seen else ())
        known = [
            item_id
            for item_id in dict.fromkeys(item_ids)
            if item_id in self._model.catalogue and item_id not in seen
        ]
        return [Candidate(one, 1.0 / rank, ("given",)) for rank, one in enumerate(known, start=1)]

    def _summarise(self, item: Item) -> pl.DataFrame:
        image = str(item.image) if item.image else None
        row = {"item_id": item.item_id, "title": item.title, "text": item.text, "image": image}
        frame = pl.DataFrame([row], schema=dict(tables.ITEMS))
        arguments = self._model.settings.summarize.model_dump(exclude={"model", "scope"})
        return summarize(frame, self._writing, noun=self._model.catalogue.noun, **arguments)

    def _add_to_catalogue(self, row: dict[str, Any] | Any) -> None:
        item = Item(
            row["item_id"],
            row["title"],
            row["text"],
            keep_picture(self._pictures, row["digest"], row["image"]),
        )
        summary = {name: row[name] for name in tables.SUMMARIES}
        with self._catalogue_lock:
            self._model.catalogue.add(item, pl.DataFrame([summary], schema=dict(tables.SUMMARIES)))

    async def _in_thread(self, function: Any, *arguments: Any) -> pl.DataFrame:
        loop = asyncio.get_running_loop()
        return cast("pl.DataFrame", await loop.run_in_executor(self._threads, function, *arguments))
