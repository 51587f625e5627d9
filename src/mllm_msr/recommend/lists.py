"""Lists of recommendations, and their construction from candidates and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, diversify, fuse

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
    """Recommended item.

    Attributes:
        item_id: The item.
        rank: Position in the list, from 1.
        score: P(yes) in [0, 1]; `None` if the model did not score the item.
        generators: Names of the candidate generators that proposed it.
        matches: Phrases of the preference that match the item's summary, or titles of similar items
            in the history, if the model reads it.
        reason: Why the model failed to score the item; empty otherwise.
    """

    item_id: str
    rank: int
    score: float | None
    generators: tuple[str, ...]
    matches: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RecommendationList:
    """Recommendations for one user.

    Attributes:
        items: The recommendations, best first.
        preference: The user's preference; blank if there is none.
        fallback_reason: Why the model scored no candidates; `None` if it scored some, or if only
            retrieval was requested.
        model_calls: Number of candidates that the model scored.
        without_image: Number of these with an image that cannot be opened, so that the model read
            only their title and, if there are some, their other images.
    """

    items: tuple[Recommendation, ...]
    preference: str
    fallback_reason: FallbackReason | None
    model_calls: int
    without_image: int = 0


def missing_input(
    profile: Profile, *, known_user: bool, prompt: RecommendSettings = DEFAULT_PROMPT
) -> FallbackReason | None:
    """Return the reason why the model cannot score candidates for a user; `None` if it can.

    Args:
        profile: The user.
        known_user: Whether the user is known to the run or the service.
        prompt: What the model reads.
    """
    has_preference = prompt.reads_preference and profile.preference.strip()
    if has_preference or (prompt.reads_history and profile.history):
        return None
    if profile.history:
        return "no_preference"
    return "no_history" if known_user or not profile.user_id else "unknown_user"


def build_list(
    catalog: ItemCatalog,
    profile: Profile,
    candidates: Sequence[Candidate],
    scores: Mapping[str, float],
    *,
    k: int,
    diversity: float,
    order: Order = "model",
    fallback_reason: FallbackReason | None = None,
    failures: Mapping[str, str] = MappingProxyType({}),
) -> RecommendationList:
    """Build the list: first the scored candidates, then the others by relevance.

    Args:
        catalog: The items.
        profile: The user.
        candidates: Candidates, most relevant first.
        scores: P(yes) of the candidates that the model scored.
        k: Length of the list.
        diversity: Weight of diversity, see `diversify`.
        order: Order of the scored candidates: by score ("model"), or by rank fusion, with the
            model as one more candidate generator ("fusion").
        fallback_reason: Why the model scored no candidates although scores were requested.
        failures: Reasons for the candidates that the model failed to score.
    """
    scored = [candidate for candidate in candidates if candidate.item_id in scores]
    others = [candidate for candidate in candidates if candidate.item_id not in scores]
    relevance = _relevance(candidates, scores, order)

    # Selection.
    selected: list[str] = []
    for group in (scored, others):
        item_ids = [candidate.item_id for candidate in group]
        selected += diversify(
            item_ids,
            [relevance[item_id] for item_id in item_ids],
            vectors=catalog.index.vectors,
            k=k - len(selected),
            diversity=diversity,
        )

    # Explanation.
    generators = {candidate.item_id: candidate.generators for candidate in candidates}
    items = tuple(
        Recommendation(
            item_id,
            rank,
            scores.get(item_id),
            generators[item_id],
            catalog.matches(profile, item_id),
            failures.get(item_id, ""),
        )
        for rank, item_id in enumerate(selected, start=1)
    )
    without_image = sum(map(catalog.lacks_image, scores))
    return RecommendationList(
        items, profile.preference, fallback_reason, len(scores), without_image
    )


def _relevance(
    candidates: Sequence[Candidate], scores: Mapping[str, float], order: Order
) -> dict[str, float]:
    """Return the value by which the list is ordered, for each candidate."""
    relevance = {candidate.item_id: candidate.relevance for candidate in candidates}
    if order == "model":
        return relevance | dict(scores)
    # Rank fusion. Equal scores keep the order of the candidates.
    scored = [candidate.item_id for candidate in candidates if candidate.item_id in scores]
    ranking = sorted(scored, key=lambda item_id: -scores[item_id])
    for model_candidate in fuse({"model": ranking}):
        relevance[model_candidate.item_id] += model_candidate.relevance
    return relevance
