"""P(yes) of the candidates of a user, from the score cache or from the model behind its queue.

`engine.py` has one `CandidateScorer` per model. Users get a list even if the model fails: a
failure, a timeout or an open circuit is returned as the fallback reason. Only a full queue raises
an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, cast, final

from cachetools import LRUCache

from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import DataError
from mllm_msr.ranker.calibration import IDENTITY, Calibration
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.ranker.scoring import yes_probability
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.list_weights import ListPlan
from mllm_msr.recommend.lists import SORTED, FallbackReason, missing_input
from mllm_msr.recommend.profiles import Profile
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import CircuitOpenError, ModelQueue, OverloadedError
from mllm_msr.serving.users import User
from mllm_msr.types import ChoiceScores, Item, Prompt

logger = logging.getLogger(__name__)

# Items per batch during the warm-up; a request may have to wait for one batch.
_WARM_UP_BATCH: Final = 8
_WARM_UP_PAUSE: Final = 0.05  # seconds

_MAX_LOGGED: Final = 200  # characters of an item's id or text


class ModelNotServedError(DataError):
    """The service has no model of a name."""


class ItemScores(NamedTuple):
    """Scores of the items of a request.

    Attributes:
        values: P(yes) by item, without items that have no score.
        failed: Items whose prompt failed.
        fallback_reason: Why there are no scores at all; `None` if there are some.
        not_needed: Items that were left out, because they could no longer change the list.
    """

    values: dict[str, float]
    failed: frozenset[str] = frozenset()
    fallback_reason: FallbackReason | None = None
    not_needed: frozenset[str] = frozenset()

    def reason(self, item_id: str, *, otherwise: str) -> str | None:
        """Return why an item has no score; `None` if it has one.

        Args:
            item_id: The item.
            otherwise: The reason if the item was not among those to score.
        """
        if item_id in self.values:
            return None
        if item_id in self.failed:
            return "scoring_failed"
        if item_id in self.not_needed:
            return "not_needed"
        return self.fallback_reason or otherwise


class _ScoreKey(NamedTuple):
    """Key of a cached score; texts of clients are hashed, so that their length is bounded."""

    user_id: str
    user: bytes  # digest of what the model reads about the user
    item: str | bytes  # id of an item of the catalog, or digest of another item


@final
class CandidateScorer:
    """Ranking model with a cache of its scores, for use from the service's event loop.

    Args:
        queue: Queue in front of the model; it may be shared.
        fingerprint: Fingerprint of the model's backend.
        catalog: Catalog that builds the prompts.
        settings: The section `serve`.
        metrics: Metrics, which count fallbacks.
        plan: How lists are made with the model.
        calibration: Calibration of the model's P(yes).

    Attributes:
        catalog: As given.
        plan: As given.
        version: Twelve hexadecimal digits that identify weights, adapter and precision.
        n_failed: Number of prompts that have failed since the last one that succeeded.
    """

    def __init__(
        self,
        queue: ModelQueue,
        *,
        fingerprint: str,
        catalog: ItemCatalog,
        settings: ServeSettings,
        metrics: Metrics,
        plan: ListPlan = SORTED,
        calibration: Calibration = IDENTITY,
    ) -> None:
        self.version = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
        self.n_failed = 0
        self.plan = plan
        self._queue = queue
        self.catalog = catalog
        self._settings = settings
        self._metrics = metrics
        self._calibration = calibration
        self._cache: LRUCache[_ScoreKey, float] = LRUCache(settings.score_cache_size)
        self._n_deletions = 0

    async def warm_up(self, item_ids: Sequence[str], profile: Profile) -> None:
        """Load the model and fill its caches before requests arrive.

        The first item is scored alone, so that the model is ready soon; the others follow in small
        batches while no request waits. A failure is only logged, because requests report it.

        Args:
            item_ids: Items of the catalog; backends may cache the attention states of their
                images.
            profile: Any user, so that the prompts are like those of requests.
        """
        user = await self._user_input(profile)
        starts = range(1, len(item_ids), _WARM_UP_BATCH)
        for batch in [item_ids[:1], *(item_ids[i : i + _WARM_UP_BATCH] for i in starts)]:
            while self._queue.waiting:
                await asyncio.sleep(_WARM_UP_PAUSE)
            try:
                prompts = await asyncio.to_thread(self._prompts, user, batch)
                for copy in range(self._queue.copies):  # each copy has its own cache
                    future = asyncio.wrap_future(self._queue.score(prompts, CHOICES, copy=copy))
                    self._valid_scores(batch, cast("list[ChoiceScores]", await future))
            except Exception as error:  # noqa: BLE001 - requests report the same error
                logger.warning("Warming up the model failed: %s", error)
                return

    def delete_user(self, user_id: str) -> None:
        """Drop the scores of a user, including those that are being computed."""
        self._n_deletions += 1
        for key in [key for key in self._cache if key.user_id == user_id]:
            del self._cache[key]

    def deadline(self) -> float:
        """Return the time of the event loop until which a request waits for the model."""
        return asyncio.get_running_loop().time() + self._settings.model_timeout

    async def score(
        self,
        user: User,
        item_ids: Sequence[str],
        *,
        given: Mapping[str, Item] = MappingProxyType({}),
        deadline: float | None = None,
    ) -> ItemScores:
        """Return P(yes) of items for a user.

        Args:
            user: The user.
            item_ids: Distinct items of the catalog, and keys of `given`.
            given: Items that are not in the catalog.
            deadline: Time of the event loop until which the model may answer, see `deadline`; by
                default it gets `serve.model_timeout` from the moment that the prompts are built.

        Raises:
            OverloadedError: Too many prompts wait for the model.
        """
        reason = missing_input(
            user.profile, known_user=user.known, prompt=self.catalog.prompt_settings
        )
        if reason is not None:
            self._metrics.fallback(reason)
            return ItemScores({}, fallback_reason=reason)
        read = await self._user_input(user.profile)
        keys = _score_keys(user.profile.user_id, read, item_ids, given)
        scores = {one: self._cache[key] for one, key in keys.items() if key in self._cache}
        missing = [item_id for item_id in item_ids if item_id not in scores]
        if not missing:
            return ItemScores(scores)
        failed: frozenset[str] = frozenset()
        n_deletions = self._n_deletions
        try:
            prompts = await asyncio.to_thread(self._prompts, read, missing, given)
            answers = await self._answers(prompts, user.profile.user_id, deadline)
        except OverloadedError:
            raise
        except CircuitOpenError:
            reason = "model_circuit_open"
        except TimeoutError:
            self._queue.record_timeout()
            reason = "model_slow"
        except Exception as error:  # noqa: BLE001 - users get a list even if the model fails
            logger.warning("Returning a list without model scores: %s", error)
            reason = "model_failed"
        else:
            new = self._valid_scores(missing, answers)
            # A user may have been deleted during scoring.
            if n_deletions == self._n_deletions and self._cache.maxsize:
                for item_id, score in new.items():
                    self._cache[keys[item_id]] = score
            scores |= new
            failed = frozenset(missing) - set(new)
            reason = None if scores else "model_failed"
        if reason is not None:
            self._metrics.fallback(reason)
        return ItemScores(scores, failed, reason)

    async def _answers(
        self, prompts: Sequence[Prompt], user_id: str, deadline: float | None
    ) -> list[ChoiceScores]:
        """Return the model's answers; raise TimeoutError if they come after the deadline."""
        future = asyncio.wrap_future(self._queue.score(prompts, CHOICES, lane=user_id))
        async with asyncio.timeout_at(self.deadline() if deadline is None else deadline):
            return cast("list[ChoiceScores]", await future)

    async def _user_input(self, profile: Profile) -> UserInput:
        """Return what the model reads about a user, in a thread because vectors are computed."""
        return await asyncio.to_thread(self.catalog.user_input, profile)

    def _prompts(
        self,
        user: UserInput,
        item_ids: Sequence[str],
        given: Mapping[str, Item] = MappingProxyType({}),
    ) -> list[Prompt]:
        """Build prompts, in a thread because images that were not opened before are decoded."""
        return [
            self.catalog.prompt_for(user, given[item_id])
            if item_id in given
            else self.catalog.prompt(user, item_id)
            for item_id in item_ids
        ]

    def _valid_scores(
        self, item_ids: Sequence[str], answers: Sequence[ChoiceScores]
    ) -> dict[str, float]:
        """Return the scores of the prompts that have not failed, and count those that have."""
        scores: dict[str, float] = {}
        failures: list[tuple[str, str]] = []
        for item_id, answer in zip(item_ids, answers, strict=True):
            score, error = yes_probability(answer)
            if score is not None and error is None:
                scores[item_id] = float(self._calibration.apply(score))
            else:
                failures.append((item_id[:_MAX_LOGGED], error or "unknown reason"))
        if failures:
            logger.warning(
                "%d of %d items have no score, such as %s: %s",
                len(failures),
                len(answers),
                *failures[0],
            )
        self.n_failed = 0 if scores else self.n_failed + len(answers)
        return scores


def _score_keys(
    user_id: str, read: UserInput, item_ids: Sequence[str], given: Mapping[str, Item]
) -> dict[str, _ScoreKey]:
    """Return the keys of the scores of items, which may be `given`."""
    user = _digest(read)
    return {
        one: _ScoreKey(user_id, user, _digest(given[one]) if one in given else one)
        for one in item_ids
    }


def _digest(content: UserInput | Item) -> bytes:
    """Return a hash of a record."""
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).digest()
