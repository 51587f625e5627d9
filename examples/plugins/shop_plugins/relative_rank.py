"""A metric: where in its list the true next item is."""

from __future__ import annotations

from typing import ClassVar

from mllm_msr.evaluation.metrics import Metric
from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


class RelativeRank(Metric):
    """Rank of the first positive, divided by the number of candidates."""

    label: ClassVar[str] = "Relative rank"
    description: ClassVar[str] = "rank of the true next item / number of candidates"
    takes_k: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False

    def compute(self, lists: RankedLists) -> Floats:
        """Compute the metric of each list; equal scores count by their expected value."""
        first = lists.positives_before == 0  # the tie group with the first positive
        # Expected rank of the first of p positives among n equal scores: (n + 1) / (p + 1).
        within = (lists.size[first] + 1) / (lists.positives[first] + 1)
        values: Floats = (lists.n_before[first] + within) / (lists.n_positives + lists.n_negatives)
        return values
