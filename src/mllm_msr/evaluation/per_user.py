"""Metrics of each user, from scores or from full-catalog ranks.

First step of the evaluation (paper, section "Experiments"). Rows are grouped by explicit keys,
never by their position in a table, so that a missing row cannot shift the users after it. The
package `metrics` defines the metrics and their rules for ties and lists with one class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.metrics import KS, configured
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists
from mllm_msr.evaluation.score_checks import KEYS, check_scores, rank_unscored_last
from mllm_msr.tables import RANKS, conform


def metrics_from_scores(
    scores: pl.DataFrame, *, model: str = "scores", ks: Sequence[int] = KS
) -> pl.DataFrame:
    """Compute the metrics of each list of a score table, with any number of positives.

    Args:
        scores: Columns of `tables.SCORES`.
        model: Name of the model in error messages.
        ks: Cut-offs.

    Returns:
        One row per (fold, negatives, user_id), sorted by these, with `n_positives`,
        `n_negatives` and one float column per name in `metric_names(ks)`.

    Raises:
        DataError: A score is NaN or infinite, or a label is neither 0 nor 1.
    """
    check_scores(scores, model=model)
    keys = scores.select(KEYS).unique().sort(KEYS).with_row_index("list")
    totals, lists = RankedLists.from_scores(rank_unscored_last(scores).join(keys, on=KEYS))
    n_positives, n_negatives = totals["n_positives"], totals["n_negatives"]
    values = _compute(lists, defined=((n_positives > 0) & (n_negatives > 0)).to_numpy(), ks=ks)
    return keys.select(KEYS).with_columns(
        n_positives, n_negatives, *(pl.Series(name, column) for name, column in values.items())
    )


def metrics_from_ranks(
    ranks: pl.DataFrame, *, model: str = "ranks", ks: Sequence[int] = KS
) -> pl.DataFrame:
    """Compute the table of `metrics_from_scores` from `tables.RANKS` (one positive per user).

    Args:
        ranks: Columns of `tables.RANKS`.
        model: Name of the model in error messages.
        ks: Cut-offs.

    Raises:
        DataError: The counts are inconsistent, or a user has two rows in a fold.
    """
    ranks = conform(ranks, RANKS, name=f"ranks of {model}")
    duplicates = ranks.filter(ranks.select(KEYS).is_duplicated())
    if duplicates.height:
        raise DataError(
            f"The ranks of {model!r} contain {duplicates.height} duplicate rows, such as "
            f"{duplicates.row(0)}. Keep one row for each (fold, negatives, user_id)."
        )
    values = metrics_from_counts(
        ranks["n_better"].to_numpy(),
        ranks["n_tied"].to_numpy(),
        n_negatives=ranks["n_negatives"].to_numpy(),
        ks=ks,
    )
    return ranks.select(
        *KEYS,
        pl.lit(1, dtype=pl.Int64).alias("n_positives"),
        "n_negatives",
        *(pl.Series(name, column) for name, column in values.items()),
    ).sort(KEYS)


def metrics_from_counts(
    n_better: npt.ArrayLike,
    n_tied: npt.ArrayLike,
    *,
    n_negatives: npt.ArrayLike,
    ks: Sequence[int] = KS,
) -> dict[str, Floats]:
    """Compute the metrics of users with one positive each, from the rank of that positive.

    Args:
        n_better: Negatives that score higher than the positive, shape [n_users].
        n_tied: Negatives with the same score as the positive, shape [n_users].
        n_negatives: All negatives, shape [n_users].
        ks: Cut-offs.

    Returns:
        One array of shape [n_users] per name in `metric_names(ks)`; NaN for users without a
        negative.

    Raises:
        DataError: A count is negative, or more negatives are better or tied than exist.

    >>> values = metrics_from_counts([0, 2], [0, 1], n_negatives=[20, 20], ks=[3])
    >>> values["auc"].tolist(), values["hr@3"].tolist()
    ([1.0, 0.875], [1.0, 0.5])
    """
    better, tied, total = np.broadcast_arrays(
        *(np.asarray(counts, dtype=np.int64) for counts in (n_better, n_tied, n_negatives))
    )
    wrong = np.flatnonzero((better < 0) | (tied < 0) | (better + tied > total))
    if wrong.size:
        row = wrong[0]
        raise DataError(
            f"Inconsistent rank counts in row {row}: {better[row]} better and {tied[row]} tied of "
            f"{total[row]} negatives. Count each negative at most once, and not the positive."
        )
    defined = total > 0
    lists = RankedLists.from_counts(better[defined], tied[defined], n_negatives=total[defined])
    return _compute(lists, defined=defined, ks=ks)


def rank_counts(scores: pl.DataFrame, *, model: str = "scores") -> pl.DataFrame:
    """Reduce a score table with one positive per list to `tables.RANKS`.

    Full-catalog rankings are scored in blocks of users and stored in this form, so that no table
    of all (user, item) pairs is ever stored.

    Args:
        scores: Columns of `tables.SCORES`.
        model: Name of the model in error messages.

    Raises:
        DataError: The scores cannot be ranked, or a list does not have exactly one positive.
    """
    check_scores(scores, model=model)
    grouped = rank_unscored_last(scores).with_columns(
        target=pl.col("score").filter(pl.col("label") == 1).first().over(KEYS)
    )
    counts = grouped.group_by(KEYS).agg(
        positives=pl.col("label").sum(),
        n_better=(pl.col("score") > pl.col("target")).sum(),
        n_tied=((pl.col("score") == pl.col("target")) & (pl.col("label") == 0)).sum(),
        n_negatives=(pl.col("label") == 0).sum(),
    )
    wrong = counts.filter(pl.col("positives") != 1)
    if wrong.height:
        raise DataError(
            f"{wrong.height} lists in the scores of {model!r} do not have exactly one positive, "
            f"such as {wrong.row(0)[:4]}. Use metrics_from_scores for other numbers of positives."
        )
    return conform(counts, RANKS, name="ranks").sort(KEYS)


def chance(
    n_negatives: npt.ArrayLike, *, n_positives: npt.ArrayLike = 1, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Compute the expected mean of each metric over users whose candidates are in random order.

    Args:
        n_negatives: Negatives of each user, shape [n_users].
        n_positives: Positives of each user, at least 1, shape [n_users] or a number.
        ks: Cut-offs.

    Returns:
        The value of each metric that is not a diagnostic.

    >>> round(chance([20], ks=[5])["hr@5"], 3)
    0.238
    """
    negatives, positives = np.broadcast_arrays(
        np.atleast_1d(np.asarray(n_negatives, dtype=np.int64)),
        np.asarray(n_positives, dtype=np.int64),
    )
    negatives, positives = negatives[negatives > 0], positives[negatives > 0]
    nothing_before = np.zeros_like(negatives)
    # Random order is the expectation over all orders, which is the value of a constant score.
    constant = RankedLists(
        n_positives=positives,
        n_negatives=negatives,
        list_index=np.arange(len(negatives)),
        n_before=nothing_before,
        size=positives + negatives,
        positives=positives,
        positives_before=nothing_before,
    )
    return {
        name: float(np.mean(metric.compute(constant)))
        for name, metric in configured(ks).items()
        if not metric.is_diagnostic
    }


def chance_by_kind(
    wide: Mapping[str, pl.DataFrame], *, ks: Sequence[int] = KS
) -> dict[str, dict[str, float]]:
    """Compute the expected metrics of a random order for each kind of negatives.

    Args:
        wide: For each model a frame with `KEYS`, `n_positives` and `n_negatives`.
        ks: Cut-offs.

    Returns:
        `{negatives: {metric: value}}`.
    """
    sizes = pl.concat(frame.select(*KEYS, "n_positives", "n_negatives") for frame in wide.values())
    by_kind = sizes.unique().sort(KEYS).partition_by("negatives", as_dict=True)
    return {
        str(kind): chance(
            frame["n_negatives"].to_numpy(), n_positives=frame["n_positives"].to_numpy(), ks=ks
        )
        for (kind,), frame in sorted(by_kind.items())
    }


def _compute(
    lists: RankedLists, *, defined: npt.NDArray[np.bool_], ks: Sequence[int]
) -> dict[str, Floats]:
    """Compute all metrics of the defined lists, with NaN for the others."""
    values = {}
    for name, metric in configured(ks).items():
        column = np.full(len(defined), np.nan)
        column[defined] = metric.compute(lists)
        values[name] = column
    return values
