"""Lists of recommendations: candidates and scores put in order, with reasons beside them.

The last step of every list, in a process of one's own (`recommend/recommender.py`) as in the service: what
the model was asked about comes first, then the rest by relevance; each item with the phrases of
the preference that it answers, the whole list with the reason where the model ranked nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.recommend.retrieval import Candidate, Profile, diversify, fuse

Order = Literal["fusion", "model"]
FallbackReason = Literal[
    "unknown_user",
    "no_history",
    "no_preference",
    "model_failed",
    "model_slow",
    "model_circuit_open",
]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: The item.
        rank: Place in the list, from 1.
        score: P(yes) in [0, 1]; `None` where the model was not asked about it.
        generators: What proposed it.
        answers: Phrases of the preference that the item's summary shares.
    """

    item_id: str
    rank: int
    score: float | None
    generators: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecommendationList:
    """A list, and what is to be known of how it came about.

    Attributes:
        items: Best first.
        preference: What the model read of the user, blank where it was not asked.
        fallback_reason: Why the model ranked nothing although it should have, else `None`.
        model_calls: Candidates that the model ranked.
    """

    items: tuple[Recommendation, ...]
    preference: str
    fallback_reason: FallbackReason | None
    model_calls: int


def missing(profile: Profile, *, known_user: bool) -> FallbackReason | None:
    """Why the model has nothing to go by for a user, `None` where it has."""
    if profile.preference.strip():
        return None
    if profile.history:
        return "no_preference"
    return "no_history" if known_user or not profile.user_id else "unknown_user"


def assemble(
    catalogue: Catalogue,
    profile: Profile,
    candidates: Sequence[Candidate],
    scores: Mapping[str, float],
    *,
    k: int,
    diversity: float,
    order: Order = "model",
    reason: FallbackReason | None = None,
) -> RecommendationList:
    """The list: first what the model was asked about, then the rest by relevance.

    Args:
        catalogue: Knows the items.
        profile: The user.
        candidates: Most relevant first.
        scores: P(yes) of those that the model was asked about.
        k: Length of the list.
        diversity: Weight of variety, as for `retrieval.diversify`, among what the model ranked;
            among all candidates where it ranked nothing.
        order: Whether what the model ranked stands in its order ("model"), or in that of its
            ranking fused with the relevance, as if it were one more generator ("fusion").
        reason: Why it ranked nothing, where it should have.
    """
    ranked = [candidate for candidate in candidates if candidate.item_id in scores]
    rest = [candidate for candidate in candidates if candidate.item_id not in scores]
    worth = dict(scores) if order == "model" else _fused(ranked, scores)
    chosen: list[str] = []
    for part in (ranked, rest):
        chosen += diversify(
            [candidate.item_id for candidate in part],
            [worth.get(candidate.item_id, candidate.relevance) for candidate in part],
            vectors=catalogue.index.vectors,
            k=k - len(chosen),
            diversity=diversity,
        )
    generators = {candidate.item_id: candidate.generators for candidate in candidates}
    items = tuple(
        Recommendation(
            item_id,
            rank,
            scores.get(item_id),
            generators[item_id],
            catalogue.answers(profile.preference, item_id),
        )
        for rank, item_id in enumerate(chosen, start=1)
    )
    return RecommendationList(items, profile.preference, reason, len(scores))


def _fused(ranked: Sequence[Candidate], scores: Mapping[str, float]) -> dict[str, float]:
    """Relevance of candidates after the model's vote."""
    by_model = sorted((candidate.item_id for candidate in ranked), key=lambda one: -scores[one])
    vote = {candidate.item_id: candidate.relevance for candidate in fuse({"model": by_model})}
    return {one.item_id: one.relevance + vote[one.item_id] for one in ranked}
