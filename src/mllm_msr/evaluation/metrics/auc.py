"""AUC: the share of (positive, negative) pairs that are ranked correctly."""

from __future__ import annotations

from typing import ClassVar

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class AUC(Metric):
    """Probability that a positive scores higher than a negative of the same list.

    Pairs with equal scores count half.
    """

    label: ClassVar[str] = "AUC"
    description: ClassVar[str] = "share of the other candidates that rank below the true next item"
    takes_k: ClassVar[bool] = False
    in_summary: ClassVar[bool] = True

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the AUC of each list."""
        tied = lists.size - lists.positives
        above = lists.n_before - lists.positives_before
        below = lists.n_negatives[lists.list_index] - above - tied
        right_pairs = lists.sum_per_list(lists.positives * (below + 0.5 * tied))
        return right_pairs / (lists.n_positives * lists.n_negatives)
