"""Case studies of the report: history, generated preferences and ranking of some test users.

The users are not selected by hand: most are drawn at random, one is the median and one the worst
user by the headline metric, and each case study states which. The preference history is that of the
paper's recurrent inference (section "User Preference Inference").
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl

from mllm_msr.evaluation.metrics import HEADLINE
from mllm_msr.evaluation.per_user import metrics_from_scores
from mllm_msr.evaluation.score_checks import rank_unscored_last

Reason = Literal["random", "median", "worst"]

_MAX_PREFERENCE_CHARS: Final = 1200
_N_TOP: Final = 3
# Kind of the candidate lists that are shown.
_NEGATIVES: Final = "uniform"
# Values of the headline metric (AUC): that of random order, and of the first fifth of a list.
_CHANCE: Final = 0.5
_TOP: Final = 0.8


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item in a case study.

    Attributes:
        item_id: Identifier.
        title: Title, or the identifier if there is none.
        image: Path of the image, or None.
    """

    item_id: str
    title: str
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class TextSpan:
    """Consecutive words of a preference text.

    Attributes:
        text: The words.
        is_new: Whether they differ from the previous preference.
    """

    text: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class PreferenceStep:
    """The preference after one block of the history, and after blocks that did not change it.

    Attributes:
        n_items: Number of interactions that the preference was inferred from.
        spans: The text, split where it changed.
        unchanged_after: Numbers of interactions after which the text was still the same.
    """

    n_items: int
    spans: tuple[TextSpan, ...]
    unchanged_after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RankedItem:
    """A candidate and its rank.

    Attributes:
        rank: 1 for the highest score; ties are broken by item id.
        item: The candidate.
        score: The model's score; None if it could not score the candidate.
        is_target: Whether it is the true next item.
    """

    rank: int
    item: ShownItem
    score: float | None
    is_target: bool


@dataclass(frozen=True, slots=True)
class ModelRanking:
    """Ranking of the candidates of a user by one of the models.

    Attributes:
        model: Name of the model.
        target_rank: Rank of the true next item, a range if it ties.
        share_below: Share of the other candidates that rank below it, in [0, 1]; ties count half.
        top: The best candidates.
    """

    model: str
    target_rank: str
    share_below: float
    top: tuple[RankedItem, ...]


@dataclass(frozen=True, slots=True)
class CaseStudy:
    """Case study of one test user.

    Attributes:
        user_id: Identifier.
        reason: How the user was selected: at random, or as the median or worst user by the
            headline metric.
        model: Name of the model whose ranking is shown.
        negatives: Kind of the other candidates.
        value: The user's value of the headline metric under that model.
        n_same: Number of users with the same value, this one included.
        n_users: Number of users with a value.
        n_earlier: Interactions before the first one shown.
        history: The latest interactions before the target, oldest first.
        preference_history: The preference after each block; empty for models without one.
        ranking: All candidates, best first.
        target_rank: Rank of the true next item, a range if it ties ("3" or "3-7").
        model_rankings: Rankings of the same candidates by every model; empty for a single model.
    """

    user_id: str
    reason: Reason
    model: str
    negatives: str
    value: float
    n_same: int
    n_users: int
    n_earlier: int
    history: tuple[ShownItem, ...]
    preference_history: tuple[PreferenceStep, ...]
    ranking: tuple[RankedItem, ...]
    target_rank: str
    model_rankings: tuple[ModelRanking, ...] = ()

    @property
    def standing(self) -> Literal["top", "middle", "below chance"]:
        """Return where the true next item ranks: in the first fifth, above chance, or below."""
        if self.value < _CHANCE:
            return "below chance"
        return "top" if self.value >= _TOP else "middle"


def build_case_studies(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    scores: pl.DataFrame,
    preferences: pl.DataFrame | None = None,
    all_scores: Mapping[str, pl.LazyFrame] | None = None,
    model: str = "mllm_msr",
    users: int = 4,
    seed: int = 0,
    max_history: int = 24,
) -> list[CaseStudy]:
    """Select users by a fixed rule and collect their case studies.

    Args:
        interactions: `tables.INTERACTIONS`, including the targets.
        items: `tables.ITEMS`.
        scores: `tables.SCORES` of one model.
        preferences: `tables.PREFERENCES`, if the model uses them.
        all_scores: `tables.SCORES` of all models by name, in the order to show them.
        model: Name of the model of `scores`.
        users: Maximum number of case studies. If there are several, the last two are of the
            median and the worst user.
        seed: Seed of the random selection.
        max_history: Maximum number of interactions to show per user.

    Raises:
        DataError: A score is not finite.
    """
    shown = scores.filter(pl.col("negatives") == _NEGATIVES)
    per_user = metrics_from_scores(shown, model=model, ks=())
    selected = _select_users(per_user, n_users=users, seed=seed)
    candidates = _candidates_of([row[0] for row in selected], all_scores or {})
    catalog, values = _shown_items(items), per_user[HEADLINE].drop_nans()
    case_studies = []
    for user_id, fold, value, reason in selected:
        ranked = _ranked(shown, user_id, fold)
        past = _items_before(interactions, user_id, target=_target(ranked)["item_id"][0])
        case_studies.append(
            CaseStudy(
                user_id=user_id,
                reason=reason,
                model=model,
                negatives=_NEGATIVES,
                value=value,
                n_same=int((values == value).sum()),
                n_users=values.len(),
                n_earlier=max(0, len(past) - max_history),
                history=tuple(_item(catalog, item) for item in past[-max_history:]),
                preference_history=_preference_history(preferences, user_id, n_items=len(past)),
                ranking=_ranking(ranked, catalog),
                target_rank=_target_rank(ranked),
                model_rankings=_model_rankings(candidates, user_id, fold=fold, catalog=catalog),
            )
        )
    return case_studies


def changed_spans(before: str, after: str) -> tuple[TextSpan, ...]:
    """Split a text where it differs from its predecessor, by words.

    Args:
        before: The previous text; if it is empty, no part of `after` is new.
        after: The text to split.

    >>> [span.text for span in changed_spans("likes calm films", "likes loud films") if span.is_new]
    ['loud']
    """
    old, new = before.split(), after.split()
    if not old:
        return (TextSpan(" ".join(new), is_new=False),) if new else ()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return tuple(
        TextSpan(" ".join(new[start:stop]), is_new=kind != "equal")
        for kind, _, _, start, stop in matcher.get_opcodes()
        if stop > start
    )


def _select_users(
    per_user: pl.DataFrame, *, n_users: int, seed: int
) -> list[tuple[str, int, float, Reason]]:
    """Return (user_id, fold, value, reason): random users, then the median, then the worst."""
    ordered = per_user.filter(pl.col(HEADLINE).is_not_nan())
    ordered = ordered.sort(HEADLINE, "user_id", descending=True)
    rows: Sequence[tuple[str, int, float]] = ordered.select("user_id", "fold", HEADLINE).rows()
    if not rows or n_users < 1:
        return []
    by_rule: list[tuple[int, Reason]] = []
    if len(rows) > 1:
        by_rule = [((len(rows) - 1) // 2, "median"), (len(rows) - 1, "worst")]
    by_rule = by_rule[: n_users - 1]
    taken = {index for index, _ in by_rule}
    free = [index for index in range(len(rows)) if index not in taken]
    n_random = min(n_users - len(by_rule), len(free))
    drawn = np.random.default_rng(seed).permutation(len(free))[:n_random]
    at_random: list[tuple[int, Reason]] = [(free[draw], "random") for draw in drawn]
    return [(*rows[index], reason) for index, reason in (*at_random, *by_rule)]


def _candidates_of(
    user_ids: Sequence[str], all_scores: Mapping[str, pl.LazyFrame]
) -> dict[str, pl.DataFrame]:
    """Read the users' scored candidates of each model; empty for a single model."""
    if len(all_scores) < 2:
        return {}
    wanted = (pl.col("negatives") == _NEGATIVES) & pl.col("user_id").is_in(list(user_ids))
    return {name: frame.filter(wanted).collect() for name, frame in all_scores.items()}


def _model_rankings(
    candidates: Mapping[str, pl.DataFrame],
    user_id: str,
    *,
    fold: int,
    catalog: Mapping[str, ShownItem],
) -> tuple[ModelRanking, ...]:
    """Rank the user's candidates by each model that scored them."""
    found = []
    for name, frame in candidates.items():
        ranked = _ranked(frame, user_id, fold)
        if _target(ranked).is_empty():
            continue
        score = _target(ranked)["score"][0]
        others = ranked.filter(pl.col("label") == 0)["score"]
        n_below = (others < score).sum() + 0.5 * (others == score).sum()
        top = _ranking(ranked.head(_N_TOP), catalog)
        share_below = float(n_below / max(1, others.len()))
        found.append(ModelRanking(name, _target_rank(ranked), share_below, top))
    return tuple(found)


def _ranked(scores: pl.DataFrame, user_id: str, fold: int) -> pl.DataFrame:
    """Return one user's candidates, best first; ties in the order of item ids."""
    rows = scores.filter((pl.col("user_id") == user_id) & (pl.col("fold") == fold))
    rows = rank_unscored_last(rows)
    return rows.sort("score", "item_id", descending=[True, False])


def _shown_items(items: pl.DataFrame) -> dict[str, ShownItem]:
    """Return all items by their id."""
    return {
        item_id: ShownItem(item_id, title or item_id, Path(image) if image else None)
        for item_id, title, image in items.select("item_id", "title", "image").iter_rows()
    }


def _item(catalog: Mapping[str, ShownItem], item_id: str) -> ShownItem:
    return catalog.get(item_id) or ShownItem(item_id, item_id)


def _items_before(interactions: pl.DataFrame, user_id: str, *, target: str) -> list[str]:
    """Return the items before the target's last occurrence, oldest first."""
    rows = interactions.filter(pl.col("user_id") == user_id).sort("position")["item_id"].to_list()
    occurrences = [index for index, item in enumerate(rows) if item == target]
    return rows[: occurrences[-1]] if occurrences else rows


def _preference_history(
    preferences: pl.DataFrame | None, user_id: str, *, n_items: int
) -> tuple[PreferenceStep, ...]:
    """Return the user's preferences that were inferred from at most `n_items` interactions."""
    if preferences is None:
        return ()
    rows = preferences.filter((pl.col("user_id") == user_id) & (pl.col("n_items") <= n_items))
    steps: list[PreferenceStep] = []
    before = None
    for n_used, preference in (
        rows.sort("n_items", "block").select("n_items", "preference").iter_rows()
    ):
        text = (preference or "")[:_MAX_PREFERENCE_CHARS]
        if text == before:
            unchanged = (*steps[-1].unchanged_after, n_used)
            steps[-1] = replace(steps[-1], unchanged_after=unchanged)
        else:
            steps.append(PreferenceStep(n_used, changed_spans(before or "", text)))
        before = text
    return tuple(steps)


def _ranking(ranked: pl.DataFrame, catalog: Mapping[str, ShownItem]) -> tuple[RankedItem, ...]:
    rows = ranked.select("item_id", "score", "label").iter_rows()
    return tuple(
        RankedItem(
            rank,
            _item(catalog, item_id),
            score if math.isfinite(score) else None,
            is_target=label == 1,
        )
        for rank, (item_id, score, label) in enumerate(rows, start=1)
    )


def _target(ranked: pl.DataFrame) -> pl.DataFrame:
    """Return the row of the true next item, empty if it is not among the candidates."""
    return ranked.filter(pl.col("label") == 1)


def _target_rank(ranked: pl.DataFrame) -> str:
    score = _target(ranked)["score"][0]
    first = int((ranked["score"] > score).sum()) + 1
    last = int((ranked["score"] >= score).sum())
    return str(first) if first == last else f"{first}-{last}"
