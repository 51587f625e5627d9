"""Metric on validation users that selects the weights of trained baselines.

The candidates are those of the split "validation", with every kind of negatives that was sampled.
Each kind has the same weight, so that neither popular nor rare items dominate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.evaluation.metrics import HEADLINE
from mllm_msr.evaluation.per_user import metrics_from_scores
from mllm_msr.interfaces import TrainingData


@dataclass(frozen=True, slots=True)
class ValidationUsers:
    """Candidates of the validation users.

    Attributes:
        rows: `tables.CANDIDATES` with split "validation"; at least one user has a positive and a
            negative candidate.
    """

    rows: pl.DataFrame

    @classmethod
    def from_data(cls, data: TrainingData) -> Self | None:
        """Return the validation users, or `None` if no user has candidates of both labels."""
        rows = data.candidates.filter(pl.col("split") == "validation")
        both = rows.group_by("fold", "negatives", "user_id").agg(
            pl.col("label").min().alias("low"), pl.col("label").max().alias("high")
        )
        return cls(rows) if ((both["low"] == 0) & (both["high"] == 1)).any() else None

    def value(self, scores: npt.NDArray[np.floating], *, metric: str = HEADLINE) -> float:
        """Average a metric over users, then over kinds of negatives.

        Args:
            scores: Higher is better: [n_rows], in the order of `rows`.
            metric: Name of a metric of `evaluation.metrics`.

        Returns:
            A value in [0, 1].
        """
        scored = self.rows.with_columns(pl.Series("score", scores, dtype=pl.Float64))
        per_user = metrics_from_scores(scored).with_columns(pl.col(metric).fill_nan(None))
        means = per_user.group_by("negatives").agg(pl.col(metric).mean()).sort("negatives")
        return float(means[metric].to_numpy().mean())
