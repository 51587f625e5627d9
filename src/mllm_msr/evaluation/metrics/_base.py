"""Base class of the ranking metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from mllm_msr.evaluation.ranked_lists import Floats, RankedLists


@dataclass(frozen=True)
class Metric(ABC):
    """Metric with a value in [0, 1] for each ranked list.

    A metric is one file in this package: `hr.py` defines the metric "hr". Other packages add
    metrics with the entry point `mllm_msr.metrics`. All other code (tables per user, means,
    chance, comparisons, report) uses the attributes below.

    Attributes:
        label: Name in tables, without the cut-off ("NDCG").
        description: Meaning of the metric for one user, for readers of the report.
        takes_k: Whether the metric is computed at a cut-off; its name is then "ndcg@5".
        higher_is_better: Whether larger values mean better rankings.
        in_summary: Whether the main tables, comparisons and plots include the metric. All other
            metrics appear only in the table of all cut-offs and in the files.
        is_diagnostic: Whether the metric describes the scores instead of the quality of a
            ranking. Such a metric has no value for random order and no best model.
        k: Cut-off, at least 1; unused by metrics without one.
    """

    label: ClassVar[str]
    description: ClassVar[str]
    takes_k: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    in_summary: ClassVar[bool] = False
    is_diagnostic: ClassVar[bool] = False

    k: int = 1

    @abstractmethod
    def compute(self, lists: RankedLists) -> Floats:
        """Compute the metric of each list.

        Ties contribute the expected value over all orders of the tied rows. The same code
        therefore handles sampled candidates and full-catalog ranks, and returns the value of
        random order if all scores of a list are equal.

        Args:
            lists: Lists with at least one positive and one negative each.

        Returns:
            Values in [0, 1], shape [n_lists].
        """
