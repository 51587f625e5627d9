"""MRR@k (mean reciprocal rank): the inverse rank of the first positive."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.metrics._first_positive import first_positive_ranks
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class ReciprocalRank(Metric):
    """1 / rank of the first positive, 0 beyond rank k."""

    label: ClassVar[str] = "MRR"
    description: ClassVar[str] = "1 / rank of the true next item, 0 beyond rank k"
    in_summary: ClassVar[bool] = True

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the expected reciprocal rank of each list."""
        reciprocals = np.zeros(len(lists.n_positives))
        for rank, probability in first_positive_ranks(lists, k=self.k):
            reciprocals += probability / rank
        return reciprocals
