"""Building of the lists of requests: candidates, their scores, and the list.

A list is made by a language model, which scores the candidates of the retriever, or by a baseline
of the run, which ranks the full catalog. Neither contains items that the user dislikes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from mllm_msr.config import tracing
from mllm_msr.ranker.recommender import ZERO_SHOT
from mllm_msr.recommend.list_weights import ListPlan
from mllm_msr.recommend.lists import (
    SORTED,
    FallbackReason,
    RecommendationList,
    build_list,
    missing_input,
)
from mllm_msr.recommend.rank_fusion import Candidate, with_reciprocal_ranks
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.baseline_ranker import BaselineRanker
from mllm_msr.serving.candidate_cache import CandidateCache
from mllm_msr.serving.scoring import CandidateScorer, ItemScores, ModelNotServedError
from mllm_msr.serving.users import User

RUN: Final = "run"


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Options of a list.

    Attributes:
        k: Length of the list.
        budget: Number of candidates that the model scores; by default that of the model's plan,
            or all given candidates. Baselines ignore it.
        exclude_seen: Whether items of the history are excluded.
        candidate_ids: Candidates to rank instead of retrieved ones; unknown items are ignored.
        model: "run", "zero_shot" or the name of a baseline.
    """

    k: int
    budget: int | None = None
    exclude_seen: bool = True
    candidate_ids: Sequence[str] | None = None
    model: str = RUN


class BuiltList(NamedTuple):
    """List for a request.

    Attributes:
        recommendations: The list.
        scores: Scores of the model.
        version: Version of the model.
        unscored: Reason of items that were not among those to score.
    """

    recommendations: RecommendationList
    scores: ItemScores
    version: str
    unscored: str


@final
class ListBuilder:
    """Builder of lists, for use from the service's event loop.

    Args:
        model: The run.
        candidates: The candidate cache.
        scorers: The language models by name.
        baselines: The baselines that the run has scored, by name.

    Attributes:
        scorers: The language models by name. "run" is the run's model. "zero_shot" is the same
            model without fine-tuning; it is served if it is in memory to generate preferences.
        baselines: The baselines that the run has scored, by name.
    """

    def __init__(
        self,
        model: MllmMsr,
        candidates: CandidateCache,
        scorers: Mapping[str, CandidateScorer],
        baselines: Mapping[str, BaselineRanker],
    ) -> None:
        self.scorers = scorers
        self.baselines = baselines
        self._model = model
        self._candidates = candidates

    def scorer(self, name: str) -> CandidateScorer:
        """Return a language model by name.

        Raises:
            ModelNotServedError: There is no such model.
        """
        if name == ZERO_SHOT and not self._model.models.fine_tuned:
            name = RUN  # without fine-tuning, both names refer to the same model
        if name not in self.scorers:
            reason = ""
            if name == ZERO_SHOT:
                reason = ", because another model generates the preferences"
            raise ModelNotServedError(
                f"The model {name!r} is not served{reason}. Use a model that /v1/models lists."
            )
        return self.scorers[name]

    async def build(self, user: User, options: ListOptions) -> BuiltList:
        """Build a list for a user.

        Raises:
            OverloadedError: Too many prompts wait for the model.
            ModelNotServedError: There is no such model.
            BackendError: The baseline is still being loaded, or failed.
        """
        if options.model in self.baselines:
            return await self._build_by_baseline(user, self.baselines[options.model], options)
        scorer = self.scorer(options.model)
        plan, budget = scorer.plan, options.budget
        if options.candidate_ids is None:
            budget = plan.budget if budget is None else budget
            with tracing.step("retrieve"):
                n = plan.n_candidates(k=options.k, budget=budget)
                candidates = await self._retrieve(user, n, options)
            if plan.weights is None and self._model.plan.weights is not None:
                candidates = with_reciprocal_ranks(candidates)
        else:
            candidates = self._given(user, options)
            budget = len(candidates) if budget is None else budget
            plan = SORTED  # the order of given candidates is not a ranking
        scores = await self._score(scorer, plan, user, candidates[:budget], options.k)
        if options.budget is None and not (budget or user.profile.history):
            # Also with a plan without calls, new users learn why they get popular items.
            reason = missing_input(user.profile, known_user=user.known)
            scores = ItemScores({}, fallback_reason=reason)
        recommendations = build_list(
            scorer.catalog,  # explains the list by what the model reads
            user.profile,
            candidates,
            scores.values,
            k=options.k,
            diversity=self._model.settings.retrieve.diversity,
            plan=plan,
            fallback_reason=scores.fallback_reason,
        )
        return BuiltList(recommendations, scores, scorer.version, "beyond_budget")

    @staticmethod
    async def _score(
        scorer: CandidateScorer,
        plan: ListPlan,
        user: User,
        candidates: Sequence[Candidate],
        k: int,
    ) -> ItemScores:
        """Score candidates, or only as many as the plan needs for a list of `k` items."""
        found, size, n_read = ItemScores({}), plan.chunk(len(candidates)), 0
        deadline = scorer.deadline() if size < len(candidates) else None  # of all parts together
        while not plan.is_settled(candidates, found.values, n_read=n_read, k=k):
            item_ids = [one.item_id for one in candidates[n_read : n_read + size]]
            with tracing.step("score", candidates=len(item_ids)):
                new = await scorer.score(user, item_ids, deadline=deadline)
            n_read += len(item_ids)
            values, failed = {**found.values, **new.values}, found.failed | new.failed
            if new.fallback_reason is not None:
                if not values:
                    return ItemScores(values, failed, new.fallback_reason)
                unscored = frozenset(one.item_id for one in candidates) - set(values)
                return ItemScores(values, unscored)
            found = ItemScores(values, failed)
        return found._replace(not_needed=frozenset(one.item_id for one in candidates[n_read:]))

    async def _build_by_baseline(
        self, user: User, ranker: BaselineRanker, options: ListOptions
    ) -> BuiltList:
        candidates: list[Candidate] = []
        reason: FallbackReason | None = None
        if not user.profile.history:
            reason = missing_input(user.profile, known_user=user.known)
        elif ranked := await ranker.rank(user.profile):
            excluded = self._excluded(user, options)
            wanted = set(options.candidate_ids or ())
            if options.candidate_ids is None:
                wanted = set(self._model.catalog) - self._model.retriever.hidden
            candidates = [
                one for one in ranked if one.item_id in wanted and one.item_id not in excluded
            ]
            # Given items that the baseline does not know come last.
            known = {one.item_id for one in candidates}
            candidates += [
                Candidate(one.item_id, 0.0, ())
                for one in self._given(user, options)
                if one.item_id not in known
            ]
        else:
            reason = "no_scores"
        if reason is not None:  # the items of other models, as if they had failed
            candidates = (
                await self._retrieve(user, options.k, options)
                if options.candidate_ids is None
                else self._given(user, options)
            )
        recommendations = build_list(
            self._model.catalog,
            user.profile,
            candidates,
            {},
            k=options.k,
            diversity=0.0,
            fallback_reason=reason,
        )
        scores = ItemScores({}, fallback_reason=reason)
        return BuiltList(recommendations, scores, ranker.version, "baseline")

    async def _retrieve(self, user: User, n: int, options: ListOptions) -> list[Candidate]:
        return await asyncio.to_thread(
            self._candidates.retrieve,
            user.profile,
            n,
            exclude_seen=options.exclude_seen,
            exclude=user.dislikes,
        )

    def _given(self, user: User, options: ListOptions) -> list[Candidate]:
        excluded = self._excluded(user, options)
        known = [
            item_id
            for item_id in dict.fromkeys(options.candidate_ids or ())
            if item_id in self._model.catalog and item_id not in excluded
        ]
        return [Candidate(one, 1.0 / rank, ("given",)) for rank, one in enumerate(known, start=1)]

    @staticmethod
    def _excluded(user: User, options: ListOptions) -> set[str]:
        seen = user.profile.history if options.exclude_seen else ()
        return {*seen, *user.dislikes}
