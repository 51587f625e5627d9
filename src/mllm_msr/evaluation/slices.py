"""For whom a model works: means over users with short and long histories, rare and popular targets.

Cuts the values per user by what `tables.CASES` says of each user, so that the same figures can be
recomputed from `metrics_per_user.parquet` and `cases.parquet` alone. The bounds are the same for
every data set, so that reports compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from mllm_msr.evaluation.aggregation import Cells, means_with_intervals

HISTORY: Final = "history"
TARGET: Final = "target"

# Upper bounds of the history's length; the shortest that a 5-core leaves are the cold users.
_LENGTHS: Final = ((5, "up to 5 (cold)"), (10, "6 to 10"), (20, "11 to 20"), (50, "21 to 50"))
_LONGEST: Final = "over 50"

_COLD: Final = 5
_POPULAR: Final = 0.9
TARGETS: Final = ("cold (at most 5)", "in between", "popular (top tenth)")
LENGTHS: Final = (*(name for _, name in _LENGTHS), _LONGEST)
ORDER: Final[Mapping[str, Sequence[str]]] = {HISTORY: LENGTHS, TARGET: TARGETS}

Slices = dict[str, dict[str, dict[str, dict[str, Cells]]]]


def with_slices(cases: pl.DataFrame) -> pl.DataFrame:
    """Add the name of each user's slices.

    Args:
        cases: `tables.CASES`.

    Returns:
        The same rows with the columns `history` (bucket of `n_history`, interactions before the
        target) and `target` (cold: chosen at most five times; popular: in the most popular tenth
        of the catalogue, unless cold).
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
    return cases.with_columns(length.alias(HISTORY), target.alias(TARGET))


def slice_means(
    wide: Mapping[str, pl.DataFrame],
    cases: pl.DataFrame,
    *,
    metrics: Sequence[str],
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Slices:
    """Means and intervals in every slice.

    Args:
        wide: For each model a frame with `fold`, `negatives`, `user_id` and one column per
            metric, without NaN.
        cases: `tables.CASES`.
        metrics: Metrics to average.
        seed: Seed of the bootstrap.
        n_resamples: Resamples of the intervals.
        level: Level of the intervals.

    Returns:
        `{"history" | "target": {slice: {model: {negatives: {metric: {mean, low, high, n}}}}}}`,
        without slices that hold nobody.
    """
    known = with_slices(cases).select("fold", "user_id", HISTORY, TARGET)
    joined = {
        model: frame.join(known, on=["fold", "user_id"], how="inner", maintain_order="left")
        for model, frame in wide.items()
    }
    found: Slices = {}
    for by, names in ORDER.items():
        for name in names:
            part = {m: frame.filter(pl.col(by) == name) for m, frame in joined.items()}
            cells = means_with_intervals(
                {model: frame for model, frame in part.items() if frame.height},
                metrics, seed=seed, n_resamples=n_resamples, level=level,
            )  # fmt: skip
            if cells:
                found.setdefault(by, {})[name] = cells
    return found
