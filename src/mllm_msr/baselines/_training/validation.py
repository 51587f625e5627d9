"""How well a model does on validation users, and on nobody else: what chooses its weights.

The candidates are those of the split "validation" with every kind of negatives that was drawn.
Each kind counts the same, so that neither popular nor rare items alone steer the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.evaluation.metrics import metrics_from_scores
from mllm_msr.interfaces import TrainingData


@dataclass(frozen=True, slots=True)
class ValidationUsers:
    """Candidates of the validation users.

    Attributes:
        rows: `tables.CANDIDATES` with split "validation", at least one positive with a negative.
    """

    rows: pl.DataFrame

    @classmethod
    def of(cls, data: TrainingData) -> Self | None:
        """The validation users of some training data; None where there are none to judge by."""
        rows = data.candidates.filter(pl.col("split") == "validation")
        both = rows.group_by("fold", "negatives", "user_id").agg(
            pl.col("label").min().alias("low"), pl.col("label").max().alias("high")
        )
        return cls(rows) if ((both["low"] == 0) & (both["high"] == 1)).any() else None

    def value(self, scores: npt.NDArray[np.floating], *, metric: str = "auc") -> float:
        """The mean of a metric over users, then over kinds of negatives.

        Args:
            scores: Higher is better: [n_rows], in the order of `rows`.
            metric: A name of `evaluation.metrics.metric_names`.

        Returns:
            In [0, 1].
        """
        scored = self.rows.with_columns(pl.Series("score", scores, dtype=pl.Float64))
        per_user = metrics_from_scores(scored).with_columns(pl.col(metric).fill_nan(None))
        means = per_user.group_by("negatives").agg(pl.col(metric).mean()).sort("negatives")
        return float(means[metric].to_numpy().mean())
