"""Means within groups of users: by length of the history and by popularity of the target.

Part of the third step of the evaluation. The slices come from `tables.TARGET_PROFILES`, so that
the same means can be recomputed from `metrics_per_user.parquet` and `target_profiles.parquet`. The
bounds are the same for every dataset, so that reports are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from mllm_msr.evaluation.aggregation import Cells, means_with_intervals

HISTORY: Final = "history"
TARGET: Final = "target"

# Upper bounds of the history length. The shortest histories that 5-core filtering allows are those
# of the cold users.
_LENGTHS: Final = ((5, "up to 5 (cold)"), (10, "6 to 10"), (20, "11 to 20"), (50, "21 to 50"))
_LONGEST: Final = "over 50"

_COLD: Final = 5
_POPULAR: Final = 0.9
TARGETS: Final = ("cold (at most 5)", "in between", "popular (top tenth)")
LENGTHS: Final = (*(name for _, name in _LENGTHS), _LONGEST)
ORDER: Final[Mapping[str, Sequence[str]]] = {HISTORY: LENGTHS, TARGET: TARGETS}

Slices = dict[str, dict[str, dict[str, dict[str, Cells]]]]


def with_slices(profiles: pl.DataFrame) -> pl.DataFrame:
    """Add the names of each user's slices.

    Args:
        profiles: `tables.TARGET_PROFILES`.

    Returns:
        The same rows with the columns `history` (range of `n_history`, the number of interactions
        before the target) and `target` (cold: at most five interactions; popular: in the most
        popular tenth of the catalog, unless cold).
    """
    length = pl.lit(_LONGEST)
    for bound, name in reversed(_LENGTHS):
        length = pl.when(pl.col("n_history") <= bound).then(pl.lit(name)).otherwise(length)
    cold, between, popular = (pl.lit(name) for name in TARGETS)
    target = (
        pl.when(pl.col("n_target") <= _COLD)
        .then(cold)
        .when(pl.col("percentile") > _POPULAR)
        .then(popular)
        .otherwise(between)
    )
    return profiles.with_columns(length.alias(HISTORY), target.alias(TARGET))


def slice_means(
    wide: Mapping[str, pl.DataFrame],
    profiles: pl.DataFrame,
    *,
    metrics: Sequence[str],
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Slices:
    """Compute means and intervals in every slice.

    Args:
        wide: For each model a frame with `fold`, `negatives`, `user_id` and one column per
            metric, without NaN.
        profiles: `tables.TARGET_PROFILES`.
        metrics: Metrics to average.
        seed: Seed of the bootstrap.
        n_resamples: Number of resamples of each interval.
        level: Level of the intervals, in (0, 1).

    Returns:
        `{"history" | "target": {slice: {model: {negatives: {metric: {mean, low, high, n}}}}}}`,
        without empty slices.
    """
    known = with_slices(profiles).select("fold", "user_id", HISTORY, TARGET)
    joined = {
        model: frame.join(known, on=["fold", "user_id"], how="inner", maintain_order="left")
        for model, frame in wide.items()
    }
    found: Slices = {}
    for by, names in ORDER.items():
        for name in names:
            part = {model: frame.filter(pl.col(by) == name) for model, frame in joined.items()}
            cells = means_with_intervals(
                {model: frame for model, frame in part.items() if frame.height},
                metrics,
                seed=seed,
                n_resamples=n_resamples,
                level=level,
            )
            if cells:
                found.setdefault(by, {})[name] = cells
    return found
