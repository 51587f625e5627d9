"""HR@k (hit rate): whether a positive is among the first k."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.metrics._first_positive import first_positive_ranks
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class HitRate(Metric):
    """1 if at least one positive is among the first k, else 0."""

    label: ClassVar[str] = "HR"
    description: ClassVar[str] = "1 if the true next item is among the first k, else 0"
    in_summary: ClassVar[bool] = True

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the probability of a hit in each list."""
        hits = np.zeros(len(lists.n_positives))
        for _, probability in first_positive_ranks(lists, k=self.k):
            hits += probability
        return hits
