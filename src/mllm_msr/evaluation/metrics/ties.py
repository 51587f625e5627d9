"""Ties: whether the score of a positive equals that of a negative."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class Ties(Metric):
    """1 if a positive has the same score as a negative, else 0.

    The mean over users is the share of users whose metrics depend on the order of equal scores.
    """

    label: ClassVar[str] = "Ties"
    description: ClassVar[str] = (
        "1 if another candidate has the same score as the true next item, else 0"
    )
    takes_k: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False
    is_diagnostic: ClassVar[bool] = True

    def compute(self, lists: RankedLists) -> Floats:
        """Mark the lists with a tie between a positive and a negative."""
        tied = lists.sum_per_list(lists.positives < lists.size) > 0
        return tied.astype(np.float64)
