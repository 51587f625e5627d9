"""Some users in full: what they chose, what the model wrote of them, how it ranked, what was true.

Feeds the report. No user is picked by hand: they are drawn at random by seed, except that one
stands at the median and one is the worst of all, and each case_study says which. The
preference preference_history is that of the paper's recurrent inference (section "User Preference Inference").
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from mllm_msr.evaluation.metrics import metrics_from_scores

RANDOM: Final = "drawn at random"
MEDIAN: Final = "the median user by AUC"
WORST: Final = "the worst user by AUC"

_MAX_PREFERENCE_CHARS: Final = 1200
_STANDING_TOP: Final = 3


@dataclass(frozen=True, slots=True)
class StoryItem:
    """An item as a case_study shows it.

    Attributes:
        item_id: Identifier.
        title: Title; the identifier where there is none.
        image: Path of the image, `None` where there is none.
    """

    item_id: str
    title: str
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """A run of words in a preference text.

    Attributes:
        text: The words.
        new: Whether the previous preference did not have them in this place.
    """

    text: str
    new: bool


@dataclass(frozen=True, slots=True)
class TrailStep:
    """The preference after one block.

    Attributes:
        n_items: Interactions read so far.
        words: The text, cut where it changed.
    """

    n_items: int
    words: tuple[Words, ...]


@dataclass(frozen=True, slots=True)
class RankedItem:
    """A candidate at its place.

    Attributes:
        rank: 1 for the highest score; equal scores in the order of item ids.
        item: The candidate.
        score: The model's score.
        truth: Whether it is the item that the user really chose next.
    """

    rank: int
    item: StoryItem
    score: float
    truth: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How one of the models ranks a case_study's candidates.

    Attributes:
        model: Name of the model.
        truth_rank: Place of the true next item, a range where it ties.
        share: Share of the other candidates that stand below it, ties half, in [0, 1].
        top: The first candidates.
    """

    model: str
    truth_rank: str
    share: float
    top: tuple[RankedItem, ...]


@dataclass(frozen=True, slots=True)
class CaseStudy:
    """One test user.

    Attributes:
        user_id: Identifier.
        reason: Why this user is shown: `RANDOM`, `MEDIAN` or `WORST`.
        model: Name of the model whose ranking is shown.
        negatives: How the other candidates were drawn.
        auc: The user's AUC under that model.
        n_earlier: Interactions before the first that is shown.
        history: The latest interactions before the target, oldest first.
        preference_history: The preference after each block; empty for models without one.
        ranking: All candidates, best first.
        truth_rank: Place of the true next item, a range where it ties ("3" or "3-7").
        standings: The same candidates as each model ranks them; empty where there is but one.
    """

    user_id: str
    reason: str
    model: str
    negatives: str
    auc: float
    n_earlier: int
    history: tuple[StoryItem, ...]
    preference_history: tuple[TrailStep, ...]
    ranking: tuple[RankedItem, ...]
    truth_rank: str
    standings: tuple[Standing, ...] = ()


def build_case_studies(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    scores: pl.DataFrame,
    preferences: pl.DataFrame | None = None,
    every: Mapping[str, pl.LazyFrame] | None = None,
    model: str = "mllm_msr",
    negatives: str = "uniform",
    users: int = 4,
    seed: int = 0,
    root: Path = Path(),
    max_history: int = 24,
) -> list[CaseStudy]:
    """Choose users by rule and collect what the report shows of them.

    Args:
        interactions: `tables.INTERACTIONS`, targets included.
        items: `tables.ITEMS`.
        scores: `tables.SCORES` of one model.
        preferences: `tables.PREFERENCES`, where the model reads them.
        every: `tables.SCORES` of all models by name, in the order to show them.
        model: The model's name.
        negatives: Kind of candidate list to show.
        users: Number of case_studies: one drawn at random, then the median and the worst user, all
            further ones drawn at random.
        seed: Seed of the draw.
        root: Folder that relative paths of images start from.
        max_history: Most interactions to show of one user.

    Returns:
        At most `users` case_studies; fewer where fewer users have a defined AUC.

    Raises:
        DataError: A score is not finite.
    """
    shown = scores.filter(pl.col("negatives") == negatives)
    chosen = _choose(metrics_from_scores(shown, model=model), users=users, seed=seed)
    catalogue = _catalogue(items, root)
    lists = _lists(every or {}, [user_id for user_id, *_ in chosen], negatives=negatives)
    case_studies = []
    for user_id, fold, auc, reason in chosen:
        ranked = _ranked(shown, user_id, fold)
        past = _past(interactions, user_id, target=_truth(ranked)["item_id"][0])
        case_studies.append(
            CaseStudy(
                user_id=user_id,
                reason=reason,
                model=model,
                negatives=negatives,
                auc=auc,
                n_earlier=max(0, len(past) - max_history),
                history=tuple(_item(catalogue, item) for item in past[-max_history:]),
                preference_history=_preference_history(preferences, user_id, n_items=len(past)),
                ranking=_ranking(ranked, catalogue),
                truth_rank=_truth_rank(ranked),
                standings=_standings(lists, user_id, fold=fold, catalogue=catalogue),
            )
        )
    return case_studies


def changed_words(before: str, after: str) -> tuple[Words, ...]:
    """Cut a text where it differs from its predecessor, by words.

    Args:
        before: The previous text; empty for the first one, of which nothing is called new.
        after: The text to cut.

    >>> [words.text for words in changed_words("likes calm films", "likes loud films") if words.new]
    ['loud']
    """
    old, new = before.split(), after.split()
    if not old:
        return (Words(" ".join(new), new=False),) if new else ()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return tuple(
        Words(" ".join(new[start:stop]), new=kind != "equal")
        for kind, _, _, start, stop in matcher.get_opcodes()
        if stop > start
    )


def _choose(per_user: pl.DataFrame, *, users: int, seed: int) -> list[tuple[str, int, float, str]]:
    """Rows (user_id, fold, auc, reason): the random ones first, then the median, then the worst."""
    ordered = per_user.filter(pl.col("auc").is_not_nan()).sort("auc", "user_id", descending=True)
    rows: Sequence[tuple[str, int, float]] = ordered.select("user_id", "fold", "auc").rows()
    if not rows or users < 1:
        return []
    marked = [((len(rows) - 1) // 2, MEDIAN), (len(rows) - 1, WORST)] if len(rows) > 1 else []
    marked = marked[: users - 1]
    taken = {at for at, _ in marked}
    free = [at for at in range(len(rows)) if at not in taken]
    n_random = min(users - len(marked), len(free))
    drawn = np.random.default_rng(seed).permutation(len(free))[:n_random]
    picked = [(free[at], RANDOM) for at in drawn] + marked
    return [(*rows[at], reason) for at, reason in picked]


def _lists(
    every: Mapping[str, pl.LazyFrame], users: Sequence[str], *, negatives: str
) -> dict[str, pl.DataFrame]:
    """The chosen users' candidates as each model scored them, read once."""
    if len(every) < 2:
        return {}
    wanted = (pl.col("negatives") == negatives) & pl.col("user_id").is_in(list(users))
    return {name: frame.filter(wanted).collect() for name, frame in every.items()}


def _standings(
    lists: Mapping[str, pl.DataFrame], user_id: str, *, fold: int, catalogue: dict[str, StoryItem]
) -> tuple[Standing, ...]:
    """How each model that scored the user's candidates ranks them."""
    found = []
    for name, frame in lists.items():
        ranked = _ranked(frame, user_id, fold)
        if _truth(ranked).is_empty():
            continue
        score = _truth(ranked)["score"][0]
        others = ranked.filter(pl.col("label") == 0)["score"]
        below = (others < score).sum() + 0.5 * (others == score).sum()
        top = _ranking(ranked.head(_STANDING_TOP), catalogue)
        share = float(below / max(1, others.len()))
        found.append(Standing(name, _truth_rank(ranked), share, top))
    return tuple(found)


def _ranked(scores: pl.DataFrame, user_id: str, fold: int) -> pl.DataFrame:
    """One user's candidates, best first; equal scores in the order of item ids."""
    rows = scores.filter((pl.col("user_id") == user_id) & (pl.col("fold") == fold))
    return rows.sort("score", "item_id", descending=[True, False])


def _catalogue(items: pl.DataFrame, root: Path) -> dict[str, StoryItem]:
    return {
        item_id: StoryItem(item_id, title or item_id, root / image if image else None)
        for item_id, title, image in items.select("item_id", "title", "image").iter_rows()
    }


def _item(catalogue: dict[str, StoryItem], item_id: str) -> StoryItem:
    return catalogue.get(item_id) or StoryItem(item_id, item_id)


def _past(interactions: pl.DataFrame, user_id: str, *, target: str) -> list[str]:
    """Items before the target's latest occurrence, oldest first."""
    rows = interactions.filter(pl.col("user_id") == user_id).sort("position")["item_id"].to_list()
    places = [at for at, item in enumerate(rows) if item == target]
    return rows[: places[-1]] if places else rows


def _preference_history(
    preferences: pl.DataFrame | None, user_id: str, *, n_items: int
) -> tuple[TrailStep, ...]:
    if preferences is None:
        return ()
    rows = preferences.filter(
        (pl.col("user_id") == user_id) & (pl.col("n_items") <= n_items)
    ).sort("n_items", "block")  # fmt: skip
    steps, before = [], ""
    for n_read, preference in rows.select("n_items", "preference").iter_rows():
        text = (preference or "")[:_MAX_PREFERENCE_CHARS]
        steps.append(TrailStep(n_read, changed_words(before, text)))
        before = text
    return tuple(steps)


def _ranking(ranked: pl.DataFrame, catalogue: dict[str, StoryItem]) -> tuple[RankedItem, ...]:
    rows = ranked.select("item_id", "score", "label").iter_rows()
    return tuple(
        RankedItem(rank, _item(catalogue, item_id), score, truth=label == 1)
        for rank, (item_id, score, label) in enumerate(rows, start=1)
    )


def _truth(ranked: pl.DataFrame) -> pl.DataFrame:
    """The row of the item that was chosen, if it is there."""
    return ranked.filter(pl.col("label") == 1)


def _truth_rank(ranked: pl.DataFrame) -> str:
    score = _truth(ranked)["score"][0]
    first = int((ranked["score"] > score).sum()) + 1
    last = int((ranked["score"] >= score).sum())
    return str(first) if first == last else f"{first}-{last}"
