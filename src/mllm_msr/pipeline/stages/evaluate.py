"""Stage "evaluate": compute metrics per user, means, intervals, tests and slices from scores.

Section "Metrics" of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from mllm_msr.config.settings import EvaluateSettings
from mllm_msr.data.splits import visible_interactions
from mllm_msr.evaluation.evaluator import Context, Evaluation, evaluate_scores
from mllm_msr.evaluation.target_profiles import build_target_profiles, item_popularity


def evaluate(
    scores: Mapping[str, pl.DataFrame],
    settings: EvaluateSettings,
    *,
    ranks: Mapping[str, pl.DataFrame],
    context: Context,
) -> Evaluation:
    """Evaluate all models with scores.

    Args:
        scores: `tables.SCORES` by model.
        settings: The section `evaluate`.
        ranks: `tables.RANKS` by model.
        context: Profiles of test users and items.
    """
    return evaluate_scores(scores, ranks=ranks, context=context, **settings.model_dump(mode="json"))


def describe_test_users(
    interactions: pl.DataFrame,
    splits: pl.DataFrame,
    targets: pl.DataFrame,
    item_ids: pl.Series,
    *,
    folds: Sequence[int],
    top: Mapping[str, pl.DataFrame],
) -> Context:
    """Build the profiles of test users and items from the interactions visible in training.

    Args:
        interactions: `tables.INTERACTIONS`.
        splits: `tables.SPLITS`.
        targets: Test rows of `tables.CANDIDATES` with label 1.
        item_ids: The catalog.
        folds: The folds that were prepared.
        top: `tables.TOP` by model.
    """
    popularity = pl.concat(
        item_popularity(visible_interactions(interactions, splits, fold)[0], item_ids, fold=fold)
        for fold in folds
    )
    targets = targets.unique(["fold", "user_id"], keep="any")
    return Context(
        profiles=build_target_profiles(targets, interactions, popularity=popularity),
        popularity=popularity,
        top=dict(top),
    )
