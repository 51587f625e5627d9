"""The online flow: events -> preference, user -> candidates -> scores -> list.

The same steps as offline (`summarization/preferences.py`, `recommend/retrieval.py`, the recommender's prompt), with the
queue of `batching.py` in front of the models and the database of `state.py` behind. A request
never waits for a preference: it gets the newest one there is, while an update runs beside it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from mllm_msr import tables
from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.reranking import FallbackReason, RecommendationList, assemble
from mllm_msr.recommend.retrieval import Candidate, Profile
from mllm_msr.serving.candidate_cache import Retrieval
from mllm_msr.serving.items import NewItems
from mllm_msr.serving.preference_updates import Users
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, OverloadedError, QueuedBackend
from mllm_msr.serving.scoring import Judge, ModelName
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.users import ModelNotServedError, User
from mllm_msr.types import Item

logger = logging.getLogger(__name__)

_WRITING_TIMEOUT: Final = 120.0
_ANSWERS_AT_ONCE: Final = 8


class OnlineEngine:
    """Everything that the routes do.

    Args:
        model: The run.
        state: What must not be lost; closed with the engine.
        settings: The section `serve`.
        images: Folder for the images of new items.
        metrics: Told what happens.

    Attributes:
        judges: The models that rank, by name: "run" is what the run made; "untuned" the same
            without fine-tuning, where that is in memory anyway, since it writes the preferences.
        users: Who is known, and preferences that follow.
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
        self._model = model
        self._state = state
        self._settings = settings
        self._metrics = metrics
        copies = settings.copies or model.useful_copies
        open_scorer = functools.partial(model.open_backend, threads=1 if copies > 1 else None)
        scorer, writer = open_scorer(), model.open_writer()
        queue = functools.partial(_queue, settings=settings, metrics=metrics)
        self._scorer = queue(open_scorer, name="scorer", copies=copies)
        self._writer = queue(lambda: writer, name="writer")
        judge = functools.partial(
            Judge, catalogue=model.catalogue, settings=settings, metrics=metrics
        )
        self.judges: dict[ModelName, Judge] = {
            "run": judge(self._scorer, fingerprint=scorer.fingerprint)
        }
        if model.trained and model.writes_untuned:
            self.judges["untuned"] = judge(self._writer, fingerprint=writer.fingerprint)
        self._writing = QueuedBackend(
            self._writer, fingerprint=writer.fingerprint, timeout=_WRITING_TIMEOUT
        )
        # Apart from the updates: whoever waits for an answer does not stand behind all of them.
        self._threads = ThreadPoolExecutor(_ANSWERS_AT_ONCE, thread_name_prefix="answer")
        self._warming: asyncio.Task[None] | None = None
        self._retrieval = Retrieval(model)
        self._writes = asyncio.Lock()
        self._items = NewItems(
            model,
            state,
            retrieval=self._retrieval,
            writing=self._writing,
            writes=self._writes,
            threads=self._threads,
            images=images,
        )
        self.users = Users(
            model,
            state,
            writer=self._writer,
            writing=self._writing,
            writes=self._writes,
            settings=settings,
            metrics=metrics,
        )

    async def start(self) -> None:
        """Take up what an earlier service left: its items, and updates that it did not finish."""
        await asyncio.to_thread(self._items.take_up)
        self.users.resume()
        first = self._model.popular_items()
        if first:
            known = first[: 1 + self._settings.warm_items * self._model.keeps_images]
            gone = await asyncio.to_thread(self._state.forgotten_users)
            users = (user_id for user_id in self._model.users if user_id not in gone)
            somebody = self._model.preference(next(users, ""))
            warming = self.judges["run"].warm_up(known, somebody)
            self._warming = asyncio.create_task(warming)

    async def stop(self) -> None:
        """Let updates at work end, within the shutdown_timeout; then close everything."""
        if self._warming is not None:
            self._warming.cancel()
        await self.users.stop()
        await asyncio.to_thread(self._scorer.close)
        await asyncio.to_thread(self._writer.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._state.close()

    @property
    def readiness(self) -> tuple[bool, str]:
        """Whether the model takes part, and a word on it."""
        if self._scorer.circuit_open:
            return False, "circuit_open after failures"
        if not self._scorer.answered:
            return False, "being loaded"
        return True, self.judges["run"].version

    @property
    def waiting(self) -> int:
        """Prompts that wait for the recommender."""
        return self._scorer.waiting

    @property
    def n_items(self) -> int:
        """Items that can be recommended."""
        return len(self._model.catalogue)

    @property
    def catalogue(self) -> Catalogue:
        """What is known of the items."""
        return self._model.catalogue

    @property
    def trained(self) -> bool:
        """Whether the run's model was fine-tuned."""
        return self._model.trained

    async def check(self) -> None:
        """Make sure that the database answers; see `ServiceState.check`."""
        await asyncio.to_thread(self._state.check)

    async def add_events(self, events: Sequence[tuple[str, str, str, int | None]]) -> list[str]:
        """Keep events and let the preferences of their users follow.

        Args:
            events: As for `ServiceState.add_events`.

        Returns:
            "accepted", "duplicate" or "unknown_item" for each.
        """
        # Looked up once: an item may arrive while the database is written.
        known = [place for place, event in enumerate(events) if event[2] in self._model.catalogue]
        async with self._writes:
            user_ids = [events[at][1] for at in known]
            try:
                new = await asyncio.to_thread(self._state.add_events, [events[at] for at in known])
            finally:  # where the answer got lost, they may have been kept all the same
                self.users.read_again(user_ids)
            self.users.note(user_ids)
        statuses = ["unknown_item"] * len(events)
        for place, is_new in zip(known, new, strict=True):
            statuses[place] = "accepted" if is_new else "duplicate"
        for status in statuses:
            self._metrics.event(status)
        for user_id in dict.fromkeys(events[place][1] for place in known):
            self.users.follow(await self.users.get(user_id))
        return statuses

    async def recommend(
        self,
        user: User,
        *,
        k: int,
        budget: int | None,
        exclude_seen: bool,
        candidate_ids: Sequence[str] | None = None,
        model: ModelName = "run",
    ) -> RecommendationList:
        """A list for a user.

        Raises:
            OverloadedError: Too many prompts wait.
            ModelNotServedError: The model is not among those that are served.
        """
        judge = self.judge(model)
        if user.profile.user_id:
            self.users.follow(user)
        spend = self._model.settings.retrieve.budget if budget is None else budget
        if candidate_ids is None:
            candidates = await asyncio.to_thread(
                self._retrieval.candidates, user.profile, max(k, spend), exclude_seen=exclude_seen
            )
        else:
            candidates = self._given(user.profile, candidate_ids, exclude_seen=exclude_seen)
            spend = len(candidates) if budget is None else budget
        reason: FallbackReason | None = None
        scores: dict[str, float] = {}
        if spend:
            asked = [candidate.item_id for candidate in candidates[:spend]]
            scores, reason = await judge.ask(user, asked)
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

    def judge(self, name: ModelName) -> Judge:
        """The model of that name.

        Raises:
            ModelNotServedError: It is not served.
        """
        if name == "untuned" and not self.trained:
            name = "run"  # what was not fine-tuned is the same model
        if name not in self.judges:
            raise ModelNotServedError(
                needed="a model that this service has loaded",
                received=f"{name!r}, while another model writes the preferences",
                remedy="ask /v1/models which ones there are",
            )
        return self.judges[name]

    async def anonymous(self, history: Sequence[str]) -> User:
        """Somebody described by what he has met; his preference is inferred, nothing is kept.

        Where the model does not answer in time there is no preference.
        """
        known = tuple(item_id for item_id in history if item_id in self._model.catalogue)
        profile = Profile("", known)
        preference_history = tables.empty(tables.PREFERENCES)
        if known:
            try:
                work = asyncio.get_running_loop().run_in_executor(
                    self._threads, self._model.infer, profile, preference_history, self._writing
                )
                preference_history = await asyncio.wait_for(work, self._settings.model_timeout)
            except OverloadedError:
                raise
            except (TimeoutError, BackendError) as error:
                logger.warning("no preference for a given history: %s", repr(error))
        preference = preference_history["preference"][-1] if preference_history.height else ""
        return User(Profile("", known, preference), preference_history, known=True)

    async def score(
        self, user_id: str, item_ids: Sequence[str]
    ) -> tuple[dict[str, float], FallbackReason | None]:
        """P(yes) of those of the items that are known, and why they are missing if they are.

        Raises:
            OverloadedError: Too many prompts wait.
        """
        user = await self.users.get(user_id)
        known = [item_id for item_id in dict.fromkeys(item_ids) if item_id in self._model.catalogue]
        return await self.judge("run").ask(user, known)

    async def forget(self, user_id: str) -> tuple[int, int]:
        """Delete a user everywhere; returns how many events and preferences that were."""
        counts = await self.users.forget(user_id)
        await asyncio.to_thread(self._retrieval.forget, user_id)
        for judge in self.judges.values():
            judge.forget(user_id)
        return counts

    async def add_item(self, item: Item, image: bytes | None) -> tuple[dict[str, Any], bool]:
        """See `NewItems.add`."""
        return await self._items.add(item, image)

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


def _queue(
    open_backend: Callable[[], Backend],
    *,
    name: str,
    settings: ServeSettings,
    metrics: Metrics,
    copies: int = 1,
) -> ModelQueue:
    """A queue in front of a model, which its first prompt loads."""
    queue = ModelQueue(
        open_backend,
        copies=copies,
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        on_batch=metrics.batch(name),
    )
    metrics.watch_queue(name, lambda: queue.waiting)
    return queue
