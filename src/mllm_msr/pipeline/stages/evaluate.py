"""Stage "evaluate": compute metrics per user, means, intervals, tests and slices from scores.

Section "Metrics" of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import polars as pl

from mllm_msr.config.settings import EvaluateSettings
from mllm_msr.data.splits import visible_interactions
from mllm_msr.evaluation.calibration import calibration
from mllm_msr.evaluation.evaluator import Context, Evaluation, evaluate_scores
from mllm_msr.evaluation.target_profiles import build_target_profiles, item_popularity
from mllm_msr.ranker.calibration import IDENTITY, Calibration


def evaluate(
    scores: Mapping[str, pl.DataFrame],
    settings: EvaluateSettings,
    *,
    ranks: Mapping[str, pl.DataFrame],
    context: Context,
    calibrations: Mapping[str, pl.DataFrame] = MappingProxyType({}),
) -> Evaluation:
    """Evaluate all models with scores.

    Args:
        scores: `tables.SCORES` by model.
        settings: The section `evaluate`.
        ranks: `tables.RANKS` by model.
        context: Profiles of test users and items.
        calibrations: `tables.CALIBRATION` by model. The details have the reliability of the
            calibrated probabilities as `calibrated`, in the form of `calibration`.
    """
    options = settings.model_dump(mode="json")
    evaluation = evaluate_scores(scores, ranks=ranks, context=context, **options)
    if not calibrations:
        return evaluation
    calibrated = {
        model: calibrate_scores(scores[model], table) for model, table in calibrations.items()
    }
    details = {**evaluation.details, "calibrated": calibration(calibrated)}
    return replace(evaluation, details=details)


def calibrate_scores(scores: pl.DataFrame, parameters: pl.DataFrame) -> pl.DataFrame:
    """Return scores as calibrated probabilities.

    Args:
        scores: `tables.SCORES` of a model; its scores are P(yes) or null.
        parameters: `tables.CALIBRATION`; folds without a row stay as they are.
    """
    fitted = {
        fold: Calibration(temperature, bias)
        for fold, temperature, bias in parameters.select("fold", "temperature", "bias").iter_rows()
    }
    return pl.concat(
        part.with_columns(fitted.get(fold, IDENTITY).apply_to_scores(part["score"]))
        for (fold,), part in scores.group_by("fold", maintain_order=True)
    )


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
