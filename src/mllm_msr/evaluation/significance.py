"""Intervals and tests over users: bootstrap, sign-flip permutation, Wilcoxon, Holm.

Second step of the evaluation: from values per user to intervals and p-values. The user is the unit
of resampling. The paper reports 95 % confidence over seeds and folds (section "Experiments"),
which does not cover the variation between users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from mllm_msr.errors import DataError, convert_missing_extras

Floats = npt.NDArray[np.float64]
Test = Literal["permutation", "wilcoxon"]

_CHUNK_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired comparisons of columns, one array entry per column.

    Attributes:
        difference: Mean difference, first minus second.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end of the bootstrap interval of the difference.
        p_value: Two-sided p-value of the hypothesis that the difference is symmetric around zero,
            not corrected for the number of comparisons (see `holm`).
        better: Share of users for whom the first is higher.
        worse: Share of users for whom the first is lower.
        n_users: Number of users compared.
    """

    difference: Floats
    low: Floats
    high: Floats
    p_value: Floats
    better: Floats
    worse: Floats
    n_users: int


def bootstrap_interval(
    values: npt.ArrayLike, *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Compute the percentile bootstrap interval of means over users.

    Args:
        values: Finite values of shape [n_users, n_columns]. A resample draws whole rows, so that
            the metrics of a user stay together.
        seed: Seed of the resampling.
        n_resamples: Number of resamples.
        level: Share of resampled means between the two ends, in (0, 1).

    Returns:
        Lower and upper ends, each of shape [n_columns].

    Raises:
        DataError: There are no users, or a value is not finite.
    """
    return bootstrap_intervals([values], seed=seed, n_resamples=n_resamples, level=level)[0]


def bootstrap_intervals(
    tables: Sequence[npt.ArrayLike], *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> list[tuple[Floats, Floats]]:
    """Compute `bootstrap_interval` of several tables that share their users and resamples.

    Args:
        tables: Finite values, each of shape [n_users, n_columns].
        seed: Seed of the resampling.
        n_resamples: Number of resamples.
        level: Share of resampled means between the two ends, in (0, 1).

    Returns:
        Lower and upper ends of each table, equal to those of `bootstrap_interval`.

    Raises:
        DataError: There are no users, a value is not finite, or the tables differ in length.
    """
    checked = [_finite_table(values) for values in tables]
    n_users = len(checked[0])
    if any(len(table) != n_users for table in checked):
        raise DataError(
            "Tables with shared resamples must have the same users, but have "
            f"{sorted({len(table) for table in checked})} rows. Group the tables by their users."
        )
    rng = np.random.default_rng(seed)
    means = [np.empty((n_resamples, table.shape[1])) for table in checked]
    chunk = max(1, _CHUNK_BYTES // (8 * n_users))
    for start in range(0, n_resamples, chunk):
        stop = min(start + chunk, n_resamples)
        weights = np.empty((stop - start, n_users))  # how often a resample draws each user
        for row in weights:
            row[:] = np.bincount(rng.integers(0, n_users, size=n_users), minlength=n_users)
        for mean, table in zip(means, checked, strict=True):
            mean[start:stop] = weights @ table / n_users
    tail = (1.0 - level) / 2.0
    ends = [np.quantile(mean, [tail, 1.0 - tail], axis=0) for mean in means]
    return [(low, high) for low, high in ends]


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    seed: int,
    test: Test = "permutation",
    n_resamples: int = 2000,
    n_flips: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Compare two models on the same users, column by column.

    Args:
        first: Finite values of shape [n_users, n_columns].
        second: Values of the same users under the other model, in the same order.
        seed: Seed of the resampling.
        test: "permutation" flips the sign of each user's difference at random, "wilcoxon" is the
            signed-rank test (zeros split, normal approximation for many users), which needs the
            extra `baselines`.
        n_resamples: Number of resamples for the interval.
        n_flips: Number of sign flips; p-values are at least 1 / (n_flips + 1).
        level: Level of the interval of the difference.

    Raises:
        DataError: There are no users, a value is not finite, or the shapes differ.
        MissingExtraError: SciPy is not installed, which `test="wilcoxon"` needs.
    """
    first, second = _finite_table(first), _finite_table(second)
    if first.shape != second.shape:
        raise DataError(
            "Two models can only be compared on the same users and columns, but their values "
            f"have the shapes {first.shape} and {second.shape}. Align both by user."
        )
    difference = first - second
    low, high = bootstrap_interval(difference, seed=seed, n_resamples=n_resamples, level=level)
    if test == "permutation":
        p_value = sign_flip_p_values(difference, seed=seed + 1, n_flips=n_flips)
    else:
        # The test is undefined if all differences are zero.
        with convert_missing_extras():
            from scipy.stats import wilcoxon  # noqa: PLC0415 - an extra, and takes seconds
        p_value = np.array(
            [
                float(wilcoxon(column, zero_method="zsplit").pvalue) if column.any() else 1.0
                for column in difference.T
            ]
        )
    return Comparison(
        difference=difference.mean(axis=0),
        low=low,
        high=high,
        p_value=p_value,
        better=(difference > 0).mean(axis=0),
        worse=(difference < 0).mean(axis=0),
        n_users=len(difference),
    )


def holm(p_values: npt.ArrayLike) -> Floats:
    """Correct a family of p-values with Holm's step-down method.

    Args:
        p_values: Shape [n_tests], in any order.

    Returns:
        Corrected p-values in the same order, at most 1.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(len(raw), 0, -1)
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def sign_flip_p_values(difference: Floats, *, seed: int, n_flips: int) -> Floats:
    """Test each column for a mean of zero by flipping the signs of its values at random.

    Args:
        difference: Finite values of shape [n_users, n_columns].
        seed: Seed of the flips.
        n_flips: Number of sign flips; the observed signs count as one more.

    Returns:
        Two-sided p-values of shape [n_columns], at least 1 / (n_flips + 1).
    """
    n_users, n_columns = difference.shape
    observed = np.abs(difference.sum(axis=0))
    # Sums of the same terms in a different order can differ in the last digit.
    slack = 1e-9 * np.abs(difference).sum(axis=0)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_BYTES // (8 * n_users))
    as_extreme = np.ones(n_columns)
    for start in range(0, n_flips, chunk):
        rows = min(chunk, n_flips - start)
        bits = np.frombuffer(rng.bytes(rows * (-(-n_users // 8))), dtype=np.uint8)
        signs = np.unpackbits(bits.reshape(rows, -1), axis=1, count=n_users)  # [rows, n_users]
        sums = (2.0 * signs - 1.0) @ difference
        as_extreme += (np.abs(sums) >= observed - slack).sum(axis=0)
    return np.asarray(as_extreme / (n_flips + 1))


def _finite_table(values: npt.ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0:
        raise DataError(
            "Values must have the shape [n_users, n_columns] with at least one user, but have the "
            f"shape {table.shape}. Pass one row per user."
        )
    if not np.isfinite(table).all():
        raise DataError(
            f"{int((~np.isfinite(table)).sum())} values are NaN or infinite. Leave out users "
            "without a defined value and report their number."
        )
    return table
