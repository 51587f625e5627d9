"""Scoring of prompts on an endpoint by the most exact method that it supports.

The method is probed once per set of answers, and again if the server changes. If a scoring route
cannot score a prompt, a chat request does, with the same meaning: its bounds are marked as such.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from mllm_msr.backends._http import chat_format
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.probes import ScoringPlan
from mllm_msr.backends._http.responses import MalformedResponseError, RequestRejectedError
from mllm_msr.backends._http.scoring_routes import Post, UnscoredPromptError, score_on_route
from mllm_msr.types import ChoiceScores, Prompt

logger = logging.getLogger(__name__)

# Statuses of a route that a server does not have.
_NO_ROUTE: Final = frozenset({404, 405, 501})


class Scorer:
    """Scores prompts, and remembers how.

    Args:
        probe: Finds the method for given answers.
        ask: Scores a prompt by a chat request, and raises `RequestRejectedError` if the endpoint
            rejects it.
        post: Sends fields to a route.
        fit: Truncates a prompt to its budget of text tokens.
    """

    def __init__(
        self,
        *,
        probe: Callable[[tuple[str, ...]], Awaitable[ScoringPlan]],
        ask: Callable[[Prompt, Scoring], Awaitable[ChoiceScores]],
        post: Post,
        fit: Callable[[Prompt], Prompt],
    ) -> None:
        self._probe = probe
        self._ask = ask
        self._post = post
        self._fit = fit
        self._plans: dict[tuple[str, ...], ScoringPlan] = {}
        self._lock = asyncio.Lock()

    async def find_plan(
        self, choices: tuple[str, ...], *, failed: ScoringPlan | None = None
    ) -> ScoringPlan:
        """Return how to score these answers; probe once, and again if that method failed.

        Raises:
            CapabilityError: No method works.
            BackendError: The endpoint rejects every request.
        """
        async with self._lock:
            known = self._plans.get(choices)
            if known is None or known == failed:
                known = self._plans[choices] = await self._probe(choices)
            return known

    async def score(self, prompt: Prompt, choices: tuple[str, ...]) -> ChoiceScores:
        """Score a prompt.

        Raises:
            RequestRejectedError: The endpoint rejects the prompt.
            RetriesExhaustedError: The endpoint does not answer.
        """
        plan = await self.find_plan(choices)
        if plan.route is not None and not prompt.images:
            turns = chat_format.messages(self._fit(prompt))
            try:
                return await score_on_route(self._post, plan.route, turns)
            except (UnscoredPromptError, RequestRejectedError, MalformedResponseError) as error:
                logger.info("a prompt is scored by a chat request: %s", error)
                if isinstance(error, RequestRejectedError) and error.status in _NO_ROUTE:
                    plan = await self.find_plan(choices, failed=plan)
        try:
            return await self._ask(prompt, plan.chat)
        except RequestRejectedError as error:
            # The server may have been restarted with another version since the probe.
            if error.status >= 500:
                raise
            new = await self.find_plan(choices, failed=plan)
            if new.chat == plan.chat:
                raise
            return await self._ask(prompt, new.chat)
