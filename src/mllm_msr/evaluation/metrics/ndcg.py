"""NDCG@k: discounted gain of the positives among the first k, relative to the ideal ranking."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class NDCG(Metric):
    """Sum of 1 / log2(rank + 1) over the positives among the first k, divided by its maximum."""

    label: ClassVar[str] = "NDCG"
    description: ClassVar[str] = "1 / log2(rank + 1) of the true next item, 0 beyond rank k"
    in_summary: ClassVar[bool] = True

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the NDCG of each list."""
        discounts = 1.0 / np.log2(np.arange(self.k, dtype=np.float64) + 2.0)
        cumulative = np.concatenate([[0.0], np.cumsum(discounts)])  # [k + 1]: sum of the first n
        last = cumulative[np.minimum(lists.n_before + lists.size, self.k)]
        first = cumulative[np.minimum(lists.n_before, self.k)]
        gain = lists.sum_per_list(lists.positives / lists.size * (last - first))
        ideal: Floats = cumulative[np.minimum(lists.n_positives, self.k)]
        return gain / ideal
