"""Recommendation from the full catalog: recall of the candidate generators, quality by model calls.

Measured on users of a finished run, with their targets hidden from all generators. The model scores
each candidate of a user once, all users together and behind the response cache of the run, so an
interrupted benchmark resumes. Smaller budgets use fewer of these scores.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from mllm_msr.cli._progress import ProgressReporter
from mllm_msr.data.full_ranking import sample_targets
from mllm_msr.errors import UsageError
from mllm_msr.evaluation.aggregation import means_with_intervals
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.list_evaluation import (
    BUDGETS,
    ScoredList,
    adaptive,
    quality_by_budget,
    summarize,
)
from mllm_msr.recommend.list_weights import ListPlan, choose_plan, fixed_weights
from mllm_msr.recommend.rank_fusion import RANK_CONSTANT, Candidate
from mllm_msr.recommend.user_pools import (
    UserPool,
    load_hidden,
    retrieve_pools,
    score_items,
    targets_with_input,
)

DEPTHS: Final = (20, 50, 100, 200)
FITTED: Final = "fitted"
ORDERS: Final = ("model", "fusion", FITTED)
ADAPTIVE: Final = " adaptive"


def run(
    *,
    folder: str = "runs/demo",
    users: int = 200,
    split: str = "test",
    folds: str = "",
    budget: int = 100,
    orders: str = ",".join(ORDERS),
    seed: int = 0,
) -> dict[str, Any]:
    """Measure retrieval and lists.

    Args:
        folder: A run folder that has been trained; with `fit-lists` for the order "fitted".
        users: Maximum number of users per fold, a seeded sample of those with a preference or a
            history that the model can read.
        split: "test" or "validation".
        folds: Folds whose users are pooled, separated by commas; by default all of the run.
        budget: Largest number of candidates per user that the model scores.
        orders: Orders to measure, separated by commas: model, fusion, fitted.
        seed: Seed of the sample, of the intervals and of the tests.

    Returns:
        Recall of each generator and of their combinations at 20, 50, 100 and 200 candidates; HR@10
        and NDCG@10 over the full catalog by order and budget, with 95 % intervals and the p-value
        of the difference in NDCG@10 from lists without model calls; the same with adaptive scoring,
        and its mean number of calls; and what scoring has cost.
    """
    wanted = [name.strip() for name in orders.split(",") if name.strip()]
    if unknown := set(wanted) - set(ORDERS):
        raise UsageError(f"Unknown orders: {', '.join(sorted(unknown))}. Use {', '.join(ORDERS)}.")
    budgets = [one for one in BUDGETS if one < budget] + [budget]
    start = time.perf_counter()
    with (
        ProgressReporter(bars=sys.stderr.isatty()) as progress,
        Pipeline.open(folder, progress=progress) as pipeline,
    ):
        used = [int(one) for one in folds.split(",")] if folds else pipeline.tables.folds()
        parts = [
            _measure_fold(pipeline, each, wanted, budgets, users=users, split=split, seed=seed)
            for each in used
        ]
        n_items = pipeline.tables.items().height
    recall = _pool([part.recall for part in parts])
    quality = _pool([part.quality for part in parts])
    return {
        "items": n_items,
        "users": recall["generator", "fusion"]["user_id"].n_unique(),
        "split": split,
        "folds": used,
        "chosen_budgets": {each: part.budget for each, part in zip(used, parts, strict=True)},
        "recall": _recall(recall, seed=seed),
        "quality": {
            order: summarize(
                {size: frame for (name, size), frame in quality.items() if name == order},
                quality[order.removesuffix(ADAPTIVE), 0],
                seed=seed,
            )
            for order in dict.fromkeys(name for name, _ in quality)
        },
        "fitted_against_fusion": {
            size: summarize({size: frame}, quality["fusion", size], seed=seed)[size]
            for (name, size), frame in quality.items()
            if name == FITTED and ("fusion", size) in quality
        },
        "usage": dict(sum((part.usage for part in parts), Counter[str]())),
        "seconds": round(time.perf_counter() - start, 1),
    }


@dataclass(frozen=True, slots=True)
class Measured:
    """Values per user of one fold.

    Attributes:
        recall: For each generator and combination, whether the target is among the candidates.
        quality: HR@10, NDCG@10 and calls by order and budget.
        budget: Budget of the run.
        usage: Calls and tokens of the model.
    """

    recall: dict[tuple[str, Any], pl.DataFrame]
    quality: dict[tuple[str, Any], pl.DataFrame]
    budget: int
    usage: Counter[str]


def _measure_fold(
    pipeline: Pipeline,
    fold: int,
    orders: Sequence[str],
    budgets: Sequence[int],
    *,
    users: int,
    split: str,
    seed: int,
) -> Measured:
    """Retrieve, score and evaluate the candidates of the users of one fold."""
    settings, recommenders = pipeline.settings, pipeline.recommenders
    plan = choose_plan(pipeline.run, settings, fold)
    loaded = load_hidden(pipeline.context, settings, plan, fold)
    targets = targets_with_input(recommenders, settings, fold, split)
    pools = retrieve_pools(pipeline.context, loaded, sample_targets(targets, users, seed=seed))
    fixed = fixed_weights(settings.retrieve.recent_weight)
    candidates = {"fusion": [user.pool.candidates(fixed) for user in pools]}
    candidates["model"] = candidates["fusion"]
    if plan.weights is not None:
        fitted = plan.weights.generators
        candidates[FITTED] = [user.pool.candidates(fitted) for user in pools]
    wanted = [order for order in orders if order in candidates]
    # Each item of a user is scored once, whatever orders need it.
    requests = [
        (
            user,
            list(
                dict.fromkeys(
                    one.item_id for order in wanted for one in candidates[order][at][: budgets[-1]]
                )
            ),
        )
        for at, user in enumerate(pools)
    ]
    scores, usage = score_items(recommenders, settings, fold, requests)
    plans = {"model": ListPlan("model", 0, ""), "fusion": ListPlan("fusion", 0, ""), FITTED: plan}
    quality: dict[tuple[str, Any], pl.DataFrame] = {}
    for order in wanted:
        lists = [
            ScoredList(user.user_id, user.target, listed, found)
            for user, listed, found in zip(pools, candidates[order], scores, strict=True)
        ]
        variants = {order: replace(plans[order], adaptive=False)}
        if order == FITTED:
            variants[order + ADAPTIVE] = adaptive(plans[order])
        for name, used in variants.items():
            frames = quality_by_budget(lists, [used] * len(lists), budgets)
            quality |= {(name, size): frame for size, frame in frames.items()}
    return Measured(_recall_by_user(pools, candidates), quality, plan.budget, Counter(usage))


def _recall_by_user(
    pools: Sequence[UserPool], candidates: Mapping[str, Sequence[Sequence[Candidate]]]
) -> dict[tuple[str, Any], pl.DataFrame]:
    """Return for each generator and combination whether the target is among the candidates."""
    ranks: dict[str, list[float]] = {}
    for user in pools:
        row = user.row
        for column, name in enumerate(user.pool.names):
            reciprocal = 0.0 if row is None else user.pool.features[row, column, 0]
            rank = round(1 / reciprocal) - RANK_CONSTANT if reciprocal else np.inf
            ranks.setdefault(name, []).append(rank)
    for name in [order for order in ("fusion", FITTED) if order in candidates]:
        for user, listed in zip(pools, candidates[name], strict=True):
            ids = [one.item_id for one in listed]
            found = ids.index(user.target) + 1 if user.target in ids else np.inf
            ranks.setdefault(name, []).append(found)
    columns = {"user_id": [user.user_id for user in pools]}
    return {
        ("generator", name): pl.DataFrame(
            columns | {str(n): np.array(values) <= n for n in DEPTHS}
        ).with_columns(pl.exclude("user_id").cast(pl.Float64))
        for name, values in ranks.items()
    }


def _recall(frames: Mapping[tuple[str, Any], pl.DataFrame], *, seed: int) -> dict[str, Any]:
    """Return mean and interval of the recall at each number of candidates."""
    wide = {name: frame.with_columns(negatives=pl.lit("")) for (_, name), frame in frames.items()}
    cells = means_with_intervals(wide, [str(n) for n in DEPTHS], seed=seed)
    return {name: found[""] for name, found in cells.items()}


def _pool(
    parts: Sequence[Mapping[tuple[str, Any], pl.DataFrame]],
) -> dict[tuple[str, Any], pl.DataFrame]:
    """Return the rows of all folds by key; an order that a fold lacks is left out."""
    keys = [key for key in parts[0] if all(key in part for part in parts)]
    return {key: pl.concat([part[key] for part in parts]) for key in keys}
