"""Candidates of users whose target is hidden, and the ranker's scores of them.

`fit_lists.py` fits the weights of lists on validation users with it, and `python -m benchmarks
retrieval` measures lists on test users.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl

from mllm_msr.config.settings import Settings
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.recommenders import Recommenders, ranker_name
from mllm_msr.ranker.recommender import MllmRecommender
from mllm_msr.ranker.training_candidates import with_input
from mllm_msr.recommend.list_weights import ListPlan
from mllm_msr.recommend.loading import LoadedRun, load_parts
from mllm_msr.recommend.rank_fusion import Pool

Scores = dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class UserPool:
    """Proposals of the candidate generators for a user whose target is hidden.

    Attributes:
        user_id: The user.
        position: Length of the history before the target.
        target: The hidden item.
        pool: The proposals.
    """

    user_id: str
    position: int
    target: str
    pool: Pool

    @property
    def row(self) -> int | None:
        """Return the row of the target in the pool; None if no generator has proposed it."""
        items = self.pool.item_ids
        return items.index(self.target) if self.target in items else None


def targets_with_input(
    recommenders: Recommenders, settings: Settings, fold: int, split: str
) -> pl.DataFrame:
    """Return the targets of the users of a split about whom the ranker can read something.

    Returns:
        Rows of `tables.CANDIDATES` with label 1, one per user, sorted by user.
    """
    rows = recommenders.tables.candidates(fold, split).filter(pl.col("label") == 1)
    targets = rows.unique("user_id", keep="any").sort("user_id")
    preferences = None
    if settings.recommend.reads_preference:
        preferences = recommenders.tables.preferences()
    return with_input(targets, settings.recommend, preferences)


def load_hidden(context: RunContext, settings: Settings, plan: ListPlan, fold: int) -> LoadedRun:
    """Load a run without the validation and test targets of a fold."""
    return load_parts(context.run, settings, plan, fold=fold, hide_targets=True)


def retrieve_pools(context: RunContext, loaded: LoadedRun, targets: pl.DataFrame) -> list[UserPool]:
    """Return the proposals for each user.

    Args:
        context: Shows the progress.
        loaded: A run with hidden targets.
        targets: Rows of `tables.CANDIDATES` with label 1, one per user.
    """
    pools = []
    rows = targets.select("user_id", "position", "item_id").rows()
    with context.progress("retrieve", len(rows)) as advance:
        for user_id, position, item_id in rows:
            pool = loaded.retriever.pool(loaded.users.profile(user_id))
            pools.append(UserPool(user_id, position, item_id, pool))
            advance(1)
    return pools


def score_items(
    recommenders: Recommenders,
    settings: Settings,
    fold: int,
    requests: Sequence[tuple[UserPool, Sequence[str]]],
) -> tuple[list[Scores], Mapping[str, int]]:
    """Return the ranker's calibrated P(yes) of items for each user, and the usage of the model.

    All prompts are one call of the model, behind the response cache of the run.

    Args:
        recommenders: The recommenders of the run.
        settings: The run's settings.
        fold: Fold of the ranker.
        requests: Users and distinct items; items without a score are left out of the result.

    Raises:
        RunFolderError: The ranker has not been trained.
        BackendError: The model fails.
    """
    rows = [
        (at, user.user_id, user.position, item_id)
        for at, (user, item_ids) in enumerate(requests)
        for item_id in item_ids
    ]
    schema = {"at": pl.Int32, "user_id": pl.String, "position": pl.Int32, "item_id": pl.String}
    pairs = pl.DataFrame(rows, schema=schema, orient="row")
    name = ranker_name(settings)
    with contextlib.closing(cast("MllmRecommender", recommenders.fitted(name, fold))) as model:
        data = recommenders.training_data(name, fold)
        scored = model.score(pairs, data.interactions).filter(pl.col("score").is_not_null())
        calibrated = model.calibration.apply(scored["score"].to_numpy())
        usage = model.usage()
    found: list[Scores] = [{} for _ in requests]
    for (at, item_id), score in zip(
        scored.select("at", "item_id").iter_rows(), calibrated.tolist(), strict=True
    ):
        found[at][item_id] = score
    return found, usage
