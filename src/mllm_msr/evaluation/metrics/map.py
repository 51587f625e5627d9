"""MAP@k (mean average precision): precision at the rank of each positive, averaged."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class AveragePrecision(Metric):
    """Sum of the precision at the rank of each positive among the first k, divided by its maximum.

    The maximum is min(k, number of positives). With one positive, the value equals MRR@k.
    """

    label: ClassVar[str] = "MAP"
    description: ClassVar[str] = "precision at the rank of the true next item, 0 beyond rank k"

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the expected average precision of each list.

        The j-th row of a tie group is positive with probability p = positives / size. Given that,
        each of the j - 1 rows before it in the group is positive with probability
        (positives - 1) / (size - 1).
        """
        probability = lists.positives / lists.size
        others = (lists.positives - 1) / np.maximum(lists.size - 1, 1)
        total = np.zeros(len(lists.size))
        for j in range(1, self.k + 1):
            rank = lists.n_before + j
            hits = lists.positives_before + 1 + (j - 1) * others
            counts = (j <= lists.size) & (rank <= self.k)
            total += np.where(counts, probability * hits / rank, 0.0)
        return lists.sum_per_list(total) / np.minimum(lists.n_positives, self.k)
