"""Recommendation from the full catalog: recall of the candidate generators, quality by budget.

Measured on the test users of a finished run, with their targets hidden from all generators. The
model scores the candidates of each user once; smaller budgets use fewer of these scores.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any, Final

from mllm_msr.data.full_ranking import sample_targets
from mllm_msr.recommend.lists import Order, build_list
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import Retriever
from mllm_msr.storage.run_folder import RunFolder

BUDGETS: Final = (0, 20, 50, 100, 200)
ORDERS: Final[tuple[Order, ...]] = ("model", "fusion")
_K: Final = 10


def run(
    *,
    folder: str = "runs/demo",
    users: int = 200,
    collaborative: str = "",
    recent_weight: float = 0.0,
    split: str = "test",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure retrieval and ranking.

    Args:
        folder: A run folder that has been trained.
        users: Maximum number of users, a seeded sample.
        collaborative: Baseline of the collaborative generator; if empty, that of the run.
        recent_weight: Weight of recent popularity in the rank fusion; if 0, that of the run.
        split: "test", or "validation" to choose settings.
        seed: Seed of the sample.

    Returns:
        Recall of each generator and of their fusion at 20, 50, 100 and 200 candidates; HR@10 and
        NDCG@10 over the full catalog for each budget of model calls, with the model's ranking and
        with its fusion with the generators' rankings; and seconds per model call.
    """
    with RunFolder.open(folder, read_only=True) as opened:
        candidates = opened.read("candidates")
    overrides = [f"retrieve.collaborative={collaborative}"] if collaborative else []
    overrides += [f"retrieve.recent_weight={recent_weight}"] if recent_weight else []
    with MllmMsr.from_run(folder, hide_targets=True, overrides=overrides) as model:
        rows = candidates.filter(split=split, fold=model.fold)
        targets = sample_targets(rows, users, seed=seed).select("user_id", "item_id").rows()
        generators = model.retriever.generators
        retrievers = {name: Retriever({name: each}) for name, each in generators.items()}
        retrievers["fusion"] = model.retriever
        recall: dict[str, dict[int, float]] = {}
        for name, retriever in retrievers.items():
            ranks = [_rank(retriever, model.users.profile(user), item) for user, item in targets]
            recall[name] = {
                n: round(sum(rank <= n for rank in ranks) / len(ranks), 4) for n in BUDGETS[1:]
            }
        quality: dict[str, dict[int, list[tuple[float, float]]]] = {
            order: {budget: [] for budget in BUDGETS} for order in ORDERS
        }
        start = time.perf_counter()
        for user, item in targets:
            for order, budget, values in _evaluate(model, model.users.profile(user), item):
                quality[order][budget].append(values)
        seconds = time.perf_counter() - start
    return {
        "items": len(model.catalog),
        "users": len(targets),
        "recall": recall,
        "quality": {
            order: {budget: _mean(values) for budget, values in by_budget.items()}
            for order, by_budget in quality.items()
        },
        "seconds_per_call": round(seconds / (len(targets) * BUDGETS[-1]), 5),
    }


def _rank(retriever: Retriever, profile: Profile, item_id: str) -> float:
    """Return the rank of an item among the candidates of the largest budget, or infinity."""
    candidates = [candidate.item_id for candidate in retriever.retrieve(profile, BUDGETS[-1])]
    return candidates.index(item_id) + 1 if item_id in candidates else math.inf


def _evaluate(
    model: MllmMsr, profile: Profile, item_id: str
) -> Iterator[tuple[Order, int, tuple[float, float]]]:
    """Yield HR@10 and NDCG@10 of one user for every order and budget."""
    candidates = model.retriever.retrieve(profile, BUDGETS[-1])
    item_ids = [candidate.item_id for candidate in candidates]
    values = zip(item_ids, model.score(profile.preference, item_ids), strict=True)
    scores = {scored: score for scored, score in values if score is not None}
    for order, budget in itertools.product(ORDERS, BUDGETS):
        known = {one: scores[one] for one in item_ids[:budget] if one in scores}
        listed = build_list(
            model.catalog, profile, candidates, known, k=_K, diversity=0.0, order=order
        )
        rank = next((one.rank for one in listed.items if one.item_id == item_id), None)
        yield order, budget, (float(rank is not None), 1 / math.log2(1 + rank) if rank else 0.0)


def _mean(values: list[tuple[float, float]]) -> dict[str, float]:
    hits, gains = zip(*values, strict=True)
    return {
        f"hr@{_K}": round(sum(hits) / len(hits), 4),
        f"ndcg@{_K}": round(sum(gains) / len(gains), 4),
    }
