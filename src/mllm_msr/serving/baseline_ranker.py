"""Rankings of the full catalog by the baselines that the run has scored, for comparison.

A baseline is loaded when it is first requested, and all baselines share one thread, so that they
never delay the model. They rank users with their current history, but do not know items and users
that have been added since the run was made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final, final

from mllm_msr.errors import BackendError
from mllm_msr.recommend.loading import ScoredBaseline
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate
from mllm_msr.recommend.retrieval import CollaborativeGenerator

logger = logging.getLogger(__name__)

_WAIT: Final = 5.0  # seconds of a request for a baseline that is being loaded


@final
class BaselineRanker:
    """Baseline of the run that ranks the catalog, for use from the service's event loop.

    Args:
        name: Name of the baseline.
        baseline: The baseline.
        item_ids: Items that it may rank.
        thread: Single thread in which the baselines are loaded and rank.

    Attributes:
        label: Label of the baseline in tables.
        version: Twelve hexadecimal digits that identify its scores in the run.
    """

    def __init__(
        self, name: str, baseline: ScoredBaseline, *, item_ids: Sequence[str], thread: Executor
    ) -> None:
        self.label = baseline.label
        self.version = baseline.version
        self._name = name
        self._baseline = baseline
        self._item_ids = item_ids
        self._thread = thread
        self._generator: CollaborativeGenerator | None = None

    async def rank(self, profile: Profile) -> list[Candidate]:
        """Return all items that the baseline can rank for a user, best first.

        Args:
            profile: The user; without a history there are no items.

        Raises:
            BackendError: The baseline is still being loaded, or failed.
        """
        ranking = asyncio.get_running_loop().run_in_executor(self._thread, self._rank, profile)
        try:
            item_ids = await asyncio.wait_for(asyncio.shield(ranking), _WAIT)
        except TimeoutError as error:
            ranking.add_done_callback(_log_failure)
            raise BackendError(
                f"The baseline {self.label} is still being loaded. Try again in a moment."
            ) from error
        except Exception as error:
            logger.exception("The baseline %s failed.", self._name)
            raise BackendError(
                f"The baseline {self.label} failed. See the log of the service."
            ) from error
        return [
            Candidate(item_id, 1.0 / rank, (self._name,))
            for rank, item_id in enumerate(item_ids, start=1)
        ]

    def _rank(self, profile: Profile) -> Sequence[str]:
        if self._generator is None:
            self._generator = CollaborativeGenerator(self._baseline.fitted(), self._item_ids)
        return self._generator.propose(profile, len(self._item_ids)).item_ids


def _log_failure(ranking: asyncio.Future[Sequence[str]]) -> None:
    """Log the failure of a ranking that no request waits for."""
    if not ranking.cancelled() and (error := ranking.exception()) is not None:
        logger.error("A baseline failed after its request had ended.", exc_info=error)
