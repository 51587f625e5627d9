"""Quality of lists for users whose target is hidden, by the number of candidates that are scored.

Values per user come first; their means, intervals and paired tests are those of `evaluation/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from mllm_msr.evaluation.aggregation import by_user, means_with_intervals
from mllm_msr.evaluation.significance import compare
from mllm_msr.recommend.list_weights import ListPlan
from mllm_msr.recommend.lists import ranking
from mllm_msr.recommend.rank_fusion import Candidate

K: Final = 10
HR, NDCG, CALLS = f"hr@{K}", f"ndcg@{K}", "calls"
# Numbers of calls at which lists are evaluated, besides the largest one.
BUDGETS: Final = (0, 10, 20, 50, 100, 200)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredList:
    """Candidates of a user whose target is hidden, and their scores.

    Attributes:
        user_id: The user.
        target: The hidden item.
        candidates: The candidates, the most relevant first.
        scores: P(yes) of candidates.
    """

    user_id: str
    target: str
    candidates: Sequence[Candidate]
    scores: Mapping[str, float]

    def quality(self, plan: ListPlan, budget: int) -> tuple[float, float, float]:
        """Return HR@10 and NDCG@10 of the list, and the number of calls.

        Args:
            plan: How the list is made.
            budget: Number of candidates that may be scored.
        """
        candidates = self.candidates[: plan.n_candidates(k=K, budget=budget)]
        allowed = candidates[:budget]
        size, n_read = plan.chunk(len(allowed)), 0
        known: dict[str, float] = {}
        while not plan.is_settled(allowed, known, n_read=n_read, k=K):
            chunk = allowed[n_read : n_read + size]
            known |= {one.item_id: self.scores[one.item_id] for one in chunk
                      if one.item_id in self.scores}  # fmt: skip
            n_read += len(chunk)
        listed = ranking(candidates, known, plan)[:K]
        if self.target not in listed:
            return 0.0, 0.0, n_read
        return 1.0, 1 / math.log2(2 + listed.index(self.target)), n_read


def quality_by_budget(
    lists: Sequence[ScoredList], plans: Sequence[ListPlan], budgets: Sequence[int]
) -> dict[int, pl.DataFrame]:
    """Return the quality of each user's list at each budget.

    Args:
        lists: The users.
        plans: How the list of each of them is made.
        budgets: Numbers of candidates that may be scored.

    Returns:
        For each budget the columns `user_id`, `hr@10`, `ndcg@10` and `calls`, sorted by user.
    """
    frames = {}
    for budget in budgets:
        rows = [
            (one.user_id, *one.quality(plan, budget))
            for one, plan in zip(lists, plans, strict=True)
        ]
        columns = ["user_id", HR, NDCG, CALLS]
        frames[budget] = pl.DataFrame(rows, schema=columns, orient="row").sort("user_id")
    return frames


def summarize(
    frames: Mapping[int, pl.DataFrame], reference: pl.DataFrame, *, seed: int
) -> dict[int, dict[str, Any]]:
    """Return means with 95 % intervals over users, and paired tests.

    Args:
        frames: Values of the same users by budget, see `quality_by_budget`.
        reference: Values without model calls.
        seed: Seed of the resampling.

    Returns:
        For each budget the mean number of calls, `{mean, low, high, n}` of each metric, the mean
        difference of NDCG@10 from the reference, and the two-sided p-values of the differences in
        NDCG@10 (`p_value`) and HR@10 (`hr_p_value`).
    """
    metrics = [HR, NDCG, CALLS]
    # A user of several folds counts once.
    frames = {budget: by_user(frame, metrics) for budget, frame in frames.items()}
    reference = by_user(reference, metrics)
    wide = {
        f"{budget}": frame.with_columns(negatives=pl.lit("")) for budget, frame in frames.items()
    }
    cells = means_with_intervals(wide, [HR, NDCG], seed=seed)
    found = {}
    for budget, frame in frames.items():
        first, second = (np.asarray(one[[NDCG, HR]].to_numpy()) for one in (frame, reference))
        tested = compare(first, second, seed=seed)
        found[budget] = {
            CALLS: float(frame[CALLS].mean() or 0.0),  # type: ignore[arg-type]
            **cells[f"{budget}"][""],
            "difference": float(tested.difference[0]),
            "p_value": float(tested.p_value[0]),
            "hr_p_value": float(tested.p_value[1]),
        }
    return found


def adaptive(plan: ListPlan) -> ListPlan:
    """Return a plan that stops scoring when the list is settled."""
    return replace(plan, adaptive=True)
