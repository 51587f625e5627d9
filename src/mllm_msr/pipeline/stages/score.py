"""Stage "score": score the test candidates and rank the full catalog with a recommender.

Recommenders that score the whole catalog at once rank it for every test user. The others score it
one candidate at a time, for a sample of users (`score.full_users`, `score.full_users_mllm`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mllm_msr import tables
from mllm_msr.config.settings import ScoreSettings
from mllm_msr.data.full_ranking import full_candidates, sample_targets
from mllm_msr.evaluation.ranking import Ranking, rank_catalog, rank_scores
from mllm_msr.interfaces import CatalogScorer, Recommender


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores and rankings of one recommender for the test users.

    Attributes:
        scores: `tables.SCORES` of the test candidates.
        ranks: `tables.RANKS`, the rank of the target in the full catalog.
        top: `tables.TOP`, the first items of each full ranking.
    """

    scores: pl.DataFrame
    ranks: pl.DataFrame
    top: pl.DataFrame


def score(
    model: Recommender,
    name: str,
    test: pl.DataFrame,
    settings: ScoreSettings,
    *,
    visible: pl.DataFrame,
    interactions: pl.DataFrame,
    item_ids: pl.Series,
    seed: int,
) -> Scores:
    """Score the test candidates of one fold.

    Args:
        model: A fitted recommender.
        name: Name of the recommender in the tables.
        test: `tables.CANDIDATES` of the fold's test users.
        settings: The section `score`.
        visible: `tables.INTERACTIONS` without hidden targets.
        interactions: `tables.INTERACTIONS`, to leave items of the history out of full rankings.
        item_ids: The catalog.
        seed: Seed of the sample of users for full rankings.
    """
    scored = model.score(test, visible)
    # Rank the full catalog for all test users if the model scores it at once, else for a sample.
    rankings: list[Ranking] = []
    n_users = settings.full_users_mllm if model.requires_llm else settings.full_users
    if model.requires_llm or not isinstance(model, CatalogScorer):
        targets = sample_targets(test, n_users, seed=seed)
        rankings = [
            rank_scores(model.score(block, visible), model=name)
            for block in full_candidates(targets, interactions, item_ids)
        ]
    elif n_users:
        targets = sample_targets(test, test.height)
        ranking = rank_catalog(
            model.score_catalog(targets.select("user_id", "position"), visible),
            targets,
            catalog=model.catalog,
            interactions=visible,
            model=name,
        )
        rankings = [ranking]
    return Scores(
        scores=tables.conform(scored, tables.SCORES, name=name),
        ranks=pl.concat([tables.empty(tables.RANKS), *(ranking.ranks for ranking in rankings)]),
        top=pl.concat([tables.empty(tables.TOP), *(ranking.top for ranking in rankings)]),
    )
