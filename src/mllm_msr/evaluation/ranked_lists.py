"""Ranked lists with ties, the input of all metrics.

A ranked list contains the candidates of one user, ordered by score. Ranking metrics depend only on
the groups of equal scores that contain a positive, so that a list of any length is reduced to a few
counts. Lists are built from score tables (`from_scores`, any number of positives) or from the
counts of a full-catalog ranking (`from_counts`, one positive each).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RankedLists:
    """Ranked lists, each with at least one positive and one negative.

    A tie group is a set of rows with equal scores in one list. Groups without a positive are left
    out. The groups of a list are adjacent and sorted by descending score.

    Attributes:
        n_positives: Positives of each list, shape [n_lists].
        n_negatives: Negatives of each list, shape [n_lists].
        list_index: List of each group, ascending, shape [n_groups].
        n_before: Rows of the list that score higher than the group, shape [n_groups].
        size: Rows in the group, shape [n_groups].
        positives: Positives in the group, at least 1, shape [n_groups].
        positives_before: Positives that score higher than the group, shape [n_groups].
    """

    n_positives: Counts
    n_negatives: Counts
    list_index: Counts
    n_before: Counts
    size: Counts
    positives: Counts
    positives_before: Counts

    @classmethod
    def from_scores(cls, rows: pl.DataFrame) -> tuple[pl.DataFrame, Self]:
        """Rank the rows of each list by score.

        Args:
            rows: Columns `list` (integer), `label` (0 or 1) and `score` (minus infinity
                for candidates without a score).

        Returns:
            A frame with the columns `list`, `n_positives` and `n_negatives`, one row per list in
            ascending order, and the ranking of those lists that have both a positive and a
            negative, in the same order.
        """
        groups = (
            rows.group_by("list", "score")
            .agg(
                size=pl.len().cast(pl.Int64),
                positives=pl.col("label").sum().cast(pl.Int64),
            )
            .sort("list", "score", descending=[False, True])
        )
        size, positives = groups["size"].to_numpy(), groups["positives"].to_numpy()
        lists, start, n_groups = np.unique(
            groups["list"].to_numpy(), return_index=True, return_counts=True
        )

        def before(counts: Counts) -> Counts:
            """Sum the counts of the earlier groups of the same list."""
            cumulative = np.cumsum(counts) - counts
            return cumulative - np.repeat(cumulative[start], n_groups)

        index = np.repeat(np.arange(len(lists)), n_groups)
        n_positives = np.bincount(index, weights=positives, minlength=len(lists)).astype(np.int64)
        n_negatives = np.bincount(index, weights=size, minlength=len(lists)).astype(np.int64)
        n_negatives -= n_positives
        defined = (n_positives > 0) & (n_negatives > 0)
        used = defined[index] & (positives > 0)
        totals = pl.DataFrame(
            {"list": lists, "n_positives": n_positives, "n_negatives": n_negatives}
        )
        return totals, cls(
            n_positives=n_positives[defined],
            n_negatives=n_negatives[defined],
            list_index=(np.cumsum(defined) - 1)[index[used]],
            n_before=before(size)[used],
            size=size[used],
            positives=positives[used],
            positives_before=before(positives)[used],
        )

    @classmethod
    def from_counts(
        cls, n_better: npt.ArrayLike, n_tied: npt.ArrayLike, *, n_negatives: npt.ArrayLike
    ) -> Self:
        """Build lists with one positive each from the rank counts of that positive.

        Args:
            n_better: Negatives that score higher than the positive, shape [n_lists].
            n_tied: Negatives with the same score as the positive, shape [n_lists].
            n_negatives: All negatives of the list, at least 1, shape [n_lists].
        """
        better, tied, total = (
            np.asarray(counts, dtype=np.int64) for counts in (n_better, n_tied, n_negatives)
        )
        ones = np.ones_like(better)
        return cls(
            n_positives=ones,
            n_negatives=total,
            list_index=np.arange(len(better)),
            n_before=better,
            size=tied + 1,
            positives=ones,
            positives_before=np.zeros_like(better),
        )

    def sum_per_list(self, values: npt.ArrayLike) -> Floats:
        """Sum the values of the tie groups of each list.

        Args:
            values: Shape [n_groups].

        Returns:
            Shape [n_lists].
        """
        return np.asarray(
            np.bincount(self.list_index, weights=values, minlength=len(self.n_positives)),
            dtype=np.float64,
        )
