"""Pooled AUC over the rows of all users, as in the code released with the paper.

Part of the third step of the evaluation, reported next to the mean AUC over users.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from mllm_msr.evaluation.aggregation import runs_by_model
from mllm_msr.evaluation.score_checks import rank_unscored_last


def pooled_auc(scores: pl.DataFrame) -> dict[str, float]:
    """Compute the AUC over all rows of a fold at once.

    The pooled AUC compares positives with the negatives of all users. It therefore also rewards
    scores that are comparable between users, and differs from the mean AUC over users. Ties count
    half.

    Args:
        scores: Columns of `tables.SCORES`.

    Returns:
        `{negatives: AUC}`, the mean over folds. Kinds of negatives without both labels in every
        fold are absent.
    """
    ranked = rank_unscored_last(scores).with_columns(
        rank=pl.col("score").rank("average").over("fold", "negatives")
    )
    folds = ranked.group_by("fold", "negatives").agg(
        n=pl.len(),
        positives=pl.col("label").sum().cast(pl.Int64),
        rank_sum=pl.col("rank").filter(pl.col("label") == 1).sort().sum(),
    )
    positives = pl.col("positives")
    pairs = positives * (pl.col("n") - positives)
    auc = (pl.col("rank_sum") - positives * (positives + 1) / 2) / pairs
    means = (
        folds.sort("fold").group_by("negatives", maintain_order=True).agg(auc.mean().alias("auc"))
    )
    return {kind: value for kind, value in sorted(means.iter_rows()) if np.isfinite(value)}


def pooled_auc_by_model(tables: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, float]]:
    """Compute the pooled AUC of each model, averaged over its seeds.

    Args:
        tables: `tables.SCORES` by run.

    Returns:
        `{model: {negatives: AUC}}`.
    """
    found = {}
    for model, runs in runs_by_model(list(tables)).items():
        values = [pooled_auc(tables[run]) for run in runs]
        kinds = dict.fromkeys(kind for value in values for kind in value)
        found[model] = {
            kind: float(np.mean([value[kind] for value in values if kind in value]))
            for kind in kinds
        }
    return found
