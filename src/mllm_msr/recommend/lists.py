"""Lists of recommendations, and their construction from candidates and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import polars as pl

from mllm_msr import tables
from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.evaluation.report import notebook
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.list_weights import ListPlan
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, diversify, reciprocal_ranks

FallbackReason = Literal[
    "unknown_user",
    "no_history",
    "no_preference",
    "model_failed",
    "model_slow",
    "model_circuit_open",
    "no_scores",
]

# Plan of a list in the order of P(yes).
SORTED: Final = ListPlan("model", 0, "")

_REASONS: Final[Mapping[FallbackReason, str]] = {
    "unknown_user": "the user is not in the run",
    "no_history": "the user has no interactions",
    "no_preference": "there is no preference for this history",
    "model_failed": "the model failed",
    "model_slow": "the model took too long",
    "model_circuit_open": "the model is paused after errors",
    "no_scores": "the baseline has no scores for the history",
}
_COLUMNS: Final[tables.Schema] = {
    "user_id": pl.String(),
    "rank": pl.Int64(),
    "item_id": pl.String(),
    "title": pl.String(),
    "score": pl.Float64(),
    "matches": pl.List(pl.String()),
    "generators": pl.List(pl.String()),
}


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
        title: Title of the item; may be empty.
        image: Path of its first image, or None.
    """

    item_id: str
    rank: int
    score: float | None
    generators: tuple[str, ...]
    matches: tuple[str, ...]
    reason: str = ""
    title: str = ""
    image: Path | None = None

    @property
    def quoted_matches(self) -> str:
        """Return the matches as one text, each in quotes, because titles may contain commas."""
        return ", ".join(f"“{match}”" for match in self.matches)


@dataclass(frozen=True, slots=True, repr=False)
class RecommendationList:
    """Recommendations for one user: a sequence of items, a frame, and covers in notebooks.

    Attributes:
        items: The recommendations, best first.
        preference: The user's preference; blank if there is none.
        fallback_reason: Why the model scored no candidates; `None` if it scored some, or if only
            retrieval was requested.
        model_calls: Number of candidates that the model scored.
        without_image: Number of these with an image that cannot be opened, so that the model read
            only their title and, if there are some, their other images.
        user_id: The user; empty for an anonymous user.
    """

    items: tuple[Recommendation, ...]
    preference: str
    fallback_reason: FallbackReason | None
    model_calls: int
    without_image: int = 0
    user_id: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Recommendation:
        return self.items[index]

    def notes(self) -> list[str]:
        """Return sentences about candidates without a score, and scored without an image."""
        notes = []
        if self.fallback_reason is not None:
            reason = _REASONS[self.fallback_reason]
            notes.append(f"The model did not rank the items: {reason}.")
        if self.without_image:
            notes.append(
                f"Ranked without an image that cannot be opened: {self.without_image} candidates."
            )
        return notes

    def to_polars(self) -> pl.DataFrame:
        """Return one row per item, the best first.

        Returns:
            Columns user_id, rank, item_id, title, score (P(yes), null if there is none), matches
            and generators (lists of texts).
        """
        return lists_frame([self])

    def to_pandas(self) -> Any:
        """Return `to_polars` as a pandas frame.

        Raises:
            UsageError: pandas is not installed.
        """
        return tables.to_pandas(self.to_polars())

    def __repr__(self) -> str:
        user = repr(self.user_id) if self.user_id else "an anonymous user"
        reason = f", not scored: {self.fallback_reason}" if self.fallback_reason else ""
        lines = [f"{len(self)} recommendations for {user}{reason}", self.preference]
        for item in self:
            score = "  -  " if item.score is None else f"{item.score:.3f}"
            matches = f"  ({item.quoted_matches})" if item.matches else ""
            lines.append(f"{item.rank:>3}  {score}  {item.item_id}  {item.title}{matches}")
        return "\n".join(filter(None, lines))

    def _repr_html_(self) -> str:
        """Return the preference and the items with their covers for a notebook."""
        return lists_html([self])


def lists_frame(lists: Iterable[RecommendationList]) -> pl.DataFrame:
    """Return the rows of lists, see `RecommendationList.to_polars`."""
    rows = [
        (
            found.user_id,
            item.rank,
            item.item_id,
            item.title,
            item.score,
            list(item.matches),
            list(item.generators),
        )
        for found in lists
        for item in found
    ]
    return pl.DataFrame(rows, schema=dict(_COLUMNS), orient="row")


def lists_html(lists: Sequence[RecommendationList], *, n_more: int = 0) -> str:
    """Return lists as an HTML fragment for notebooks.

    Args:
        lists: The lists to show.
        n_more: Number of further lists that are not shown.
    """
    shown = [
        {
            "title": f"Recommendations for {found.user_id}" if found.user_id else "Recommendations",
            "preference": notebook.mark_phrases(
                found.preference, (phrase for item in found for phrase in item.matches)
            ),
            "notes": found.notes(),
            "recommendations": found.items,
        }
        for found in lists
    ]
    scored = any(item.score is not None for found in lists for item in found)
    return notebook.render("lists", lists=shown, n_more=n_more, scored=scored)


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
    plan: ListPlan = SORTED,
    fallback_reason: FallbackReason | None = None,
    failures: Mapping[str, str] = MappingProxyType({}),
) -> RecommendationList:
    """Build the list.

    With fitted weights, all candidates are ordered by their value. Otherwise the scored candidates
    come first, and then the others by relevance.

    Args:
        catalog: The items.
        profile: The user.
        candidates: Candidates, most relevant first.
        scores: P(yes) of the candidates that the model scored.
        k: Length of the list.
        diversity: Weight of diversity, see `diversify`.
        plan: Order of the scored candidates: by fitted weights ("fitted"), by rank fusion, with
            the model as one more candidate generator ("fusion"), or by score ("model").
        fallback_reason: Why the model scored no candidates although scores were requested.
        failures: Reasons for the candidates that the model failed to score.
    """
    relevance = order_values(candidates, scores, plan)
    selected: list[str] = []
    for item_ids in _groups(candidates, scores, plan):
        selected += diversify(
            item_ids,
            [relevance[item_id] for item_id in item_ids],
            vectors=catalog.index.vectors,
            k=k - len(selected),
            diversity=diversity,
        )

    generators = {candidate.item_id: candidate.generators for candidate in candidates}
    items = tuple(
        Recommendation(
            item_id,
            rank,
            scores.get(item_id),
            generators[item_id],
            catalog.matches(profile, item_id),
            failures.get(item_id, ""),
            catalog.title(item_id),
            catalog.image(item_id),
        )
        for rank, item_id in enumerate(selected, start=1)
    )
    without_image = sum(map(catalog.lacks_image, scores))
    return RecommendationList(
        items, profile.preference, fallback_reason, len(scores), without_image, profile.user_id
    )


def ranking(
    candidates: Sequence[Candidate], scores: Mapping[str, float], plan: ListPlan
) -> list[str]:
    """Return all candidates in the order of `build_list`, without diversity."""
    values = order_values(candidates, scores, plan)
    groups = _groups(candidates, scores, plan)
    return [one for group in groups for one in sorted(group, key=lambda one: -values[one])]


def _groups(
    candidates: Sequence[Candidate], scores: Mapping[str, float], plan: ListPlan
) -> list[list[str]]:
    """Return the candidates in groups that follow each other in the list."""
    item_ids = [candidate.item_id for candidate in candidates]
    if plan.order == "fitted":
        return [item_ids]
    return [[one for one in item_ids if (one in scores) == scored] for scored in (True, False)]


def order_values(
    candidates: Sequence[Candidate], scores: Mapping[str, float], plan: ListPlan
) -> dict[str, float]:
    """Return the value by which the list is ordered, for each candidate."""
    if plan.weights is not None:
        values = plan.weights.values(candidates, scores)
        return {one.item_id: float(value) for one, value in zip(candidates, values, strict=True)}
    relevance = {candidate.item_id: candidate.relevance for candidate in candidates}
    if plan.order == "model":
        return relevance | dict(scores)
    # Rank fusion. Equal scores keep the order of the candidates.
    scored = [candidate.item_id for candidate in candidates if candidate.item_id in scores]
    ranking = sorted(scored, key=lambda item_id: -scores[item_id])
    for item_id, reciprocal_rank in zip(ranking, reciprocal_ranks(len(ranking)), strict=True):
        relevance[item_id] += float(reciprocal_rank)
    return relevance
