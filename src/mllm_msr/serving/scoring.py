"""P(yes) of a user's candidates: out of memory, from the model behind its queue, or why not.

`engine.py` asks one judge for each model that is served. Whatever a model does, users get a list:
a failure, a hang or a rest becomes a reason, and only a full queue is an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, cast, final

from mllm_msr.config.settings import ServeSettings
from mllm_msr.ranker.scoring import probability
from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.recommend.recommender import CHOICES
from mllm_msr.recommend.reranking import FallbackReason, missing
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.request_queue import ModelQueue, OverloadedError, RestingError
from mllm_msr.serving.users import User
from mllm_msr.types import ChoiceScores

logger = logging.getLogger(__name__)

# Items read at a time while nobody asks: what the next request may have to wait for.
_WARM_BATCH: Final = 8
_WARM_PAUSE: Final = 0.05  # seconds

ModelName = Literal["run", "untuned"]


class _Asked(NamedTuple):
    user_id: str
    preference: str
    item_id: str


@final
class Judge:
    """One model that ranks, and the scores that it has given.

    Args:
        queue: The model; others may ask it too.
        fingerprint: What its backend calls it.
        catalogue: Makes the prompts.
        settings: The section `serve`.
        metrics: Told what happens.

    Attributes:
        version: Twelve letters that change with weights, adapter and precision.
    """

    def __init__(
        self,
        queue: ModelQueue,
        *,
        fingerprint: str,
        catalogue: Catalogue,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self.version = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
        self._queue = queue
        self._catalogue = catalogue
        self._settings = settings
        self._metrics = metrics
        self._scores: OrderedDict[_Asked, float] = OrderedDict()
        self._n_forgotten = 0

    async def warm_up(self, item_ids: Sequence[str], preference: str) -> None:
        """Load the model and let it read items now, not while users wait.

        The first item comes alone, so that the model is soon ready; the others a few at a time,
        when nobody else asks. What goes wrong is left for the first request to meet.

        Args:
            item_ids: Items of the catalogue; what is read of their images is kept where the
                backend can keep it.
            preference: Somebody's, so that prompts begin as those of users do.
        """
        starts = range(1, len(item_ids), _WARM_BATCH)
        for portion in [item_ids[:1], *(item_ids[at : at + _WARM_BATCH] for at in starts)]:
            while self._queue.waiting:
                await asyncio.sleep(_WARM_PAUSE)
            prompts = [self._catalogue.prompt(preference, item_id) for item_id in portion]
            try:
                for copy in range(self._queue.copies):  # each remembers for itself
                    await asyncio.wrap_future(self._queue.score(prompts, CHOICES, copy=copy))
            except Exception as error:  # noqa: BLE001 - requests meet it again, and say so
                logger.warning("the model could not be warmed up: %s", error)
                return

    def forget(self, user_id: str) -> None:
        """Forget the scores of a user, those that are being asked for included."""
        self._n_forgotten += 1
        for asked in [asked for asked in self._scores if asked.user_id == user_id]:
            del self._scores[asked]

    async def ask(
        self, user: User, item_ids: Sequence[str]
    ) -> tuple[dict[str, float], FallbackReason | None]:
        """P(yes) of items for a user.

        Args:
            user: The user.
            item_ids: Items of the catalogue.

        Returns:
            Scores by item, and why there is none where there is none.

        Raises:
            OverloadedError: Too many prompts wait.
        """
        reason = missing(user.profile, known_user=user.known)
        if reason is not None:
            self._metrics.fallback(reason)
            return {}, reason
        preference = user.profile.preference
        asked = {one: _Asked(user.profile.user_id, preference, one) for one in item_ids}
        found = {one: self._scores[key] for one, key in asked.items() if key in self._scores}
        rest = [item_id for item_id in item_ids if item_id not in found]
        if not rest:
            return found, None
        n_forgotten = self._n_forgotten
        try:
            answers = await self._answers(preference, rest)
        except OverloadedError:
            raise
        except RestingError:
            reason = "model_circuit_open"
        except TimeoutError:
            self._queue.note_timeout()
            reason = "model_slow"
        except Exception as error:  # noqa: BLE001 - whatever a model does, users get a list
            logger.warning("answered without the model: %s", error)
            reason = "model_failed"
        else:
            new = _understood(rest, answers)
            if n_forgotten == self._n_forgotten:
                self._remember({asked[one]: score for one, score in new.items()})
            found |= new
            reason = None if found else "model_failed"
        if reason is not None:
            self._metrics.fallback(reason)
        return found, reason

    async def _answers(self, preference: str, item_ids: Sequence[str]) -> list[ChoiceScores]:
        prompts = [self._catalogue.prompt(preference, item_id) for item_id in item_ids]
        waiting = asyncio.wrap_future(self._queue.score(prompts, CHOICES))
        answers = await asyncio.wait_for(waiting, self._settings.model_timeout)
        return cast("list[ChoiceScores]", answers)

    def _remember(self, scores: Mapping[_Asked, float]) -> None:
        self._scores.update(scores)
        while len(self._scores) > self._settings.score_cache_size:
            self._scores.popitem(last=False)


def _understood(item_ids: Sequence[str], answers: Sequence[ChoiceScores]) -> dict[str, float]:
    scores = {}
    for item_id, answer in zip(item_ids, answers, strict=True):
        score, error = probability(answer)
        if error is None:
            scores[item_id] = score
        else:
            logger.warning("item %s has no score: %s", item_id, error)
    return scores
