"""Precision@k: the share of the first k that are positives."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class Precision(Metric):
    """Number of positives among the first k, divided by k.

    Lists shorter than k are divided by k as well, so that values are comparable across lists.
    """

    label: ClassVar[str] = "Precision"
    description: ClassVar[str] = "true next items among the first k, divided by k"

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the expected precision of each list."""
        rows_within_k = np.clip(self.k - lists.n_before, 0, lists.size)
        return lists.sum_per_list(lists.positives * rows_within_k / lists.size) / self.k
