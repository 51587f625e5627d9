"""Comparison of the orders of the ranker's prompt (`recommend.order`) for the data of a run.

Prompts that begin with the item share the work on its image, those that begin with the user the
work on the preference. Which order computes fewer tokens depends on the lengths of both and on how
many prompts of one item, or of one user, are computed together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.config.settings import Settings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.models.prefix_support import common_prefix_length
from mllm_msr.pipeline.cost.report import OrderCost
from mllm_msr.pipeline.cost.token_counter import Call
from mllm_msr.ranker.training.sampler import StepSampler

# Columns whose equal values mean that prompts share their beginning.
_SHARED: Final[Mapping[PromptOrder, tuple[str, ...]]] = {
    "item-first": ("item_id",),
    "user-first": ("user_id", "position"),
    "reranker": ("user_id", "position"),
}
# The orders that a model without an order of its own can be fine-tuned with.
COMPARED: Final[tuple[PromptOrder, PromptOrder]] = ("item-first", "user-first")
# Training steps whose batches are drawn to count the items and users in a batch.
_SAMPLED_STEPS: Final = 64


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Mean lengths of the prompts of one order.

    Attributes:
        n_tokens: Tokens of a prompt, including image tokens.
        n_shared: Tokens of its beginning that it shares with other prompts.
    """

    n_tokens: float
    n_shared: float

    def n_computed(self, n_prompts: float, n_prefixes: float) -> int:
        """Return how many tokens are computed if each shared prefix is computed once.

        Args:
            n_prompts: Number of prompts.
            n_prefixes: Number of distinct prefixes.
        """
        return round(n_prompts * self.n_tokens - max(0, n_prompts - n_prefixes) * self.n_shared)


def shared_columns(order: PromptOrder) -> tuple[str, ...]:
    """Return the columns of candidates whose equal values mean an equal beginning."""
    return _SHARED[order]


def mean_shared_tokens(calls: Sequence[Call], others: Sequence[Call]) -> float:
    """Return how many tokens a prompt begins with that it shares with other prompts, on average.

    Args:
        calls: Prompts.
        others: The same prompts of users, or with items, that have nothing in common with them.
    """
    n_shared = sum(
        common_prefix_length(call.prompt.ids, other.prompt.ids)
        for call, other in zip(calls, others, strict=False)
    )
    return n_shared / max(1, len(calls))


def compare_orders(
    lengths: Mapping[PromptOrder, PromptLengths],
    candidates: pl.DataFrame,
    settings: Settings,
    *,
    n_list: int,
    caches_images: bool,
) -> tuple[OrderCost, ...]:
    """Return the tokens to compute in each order, by kind of work.

    Args:
        lengths: Mean lengths of the prompts of the compared orders.
        candidates: `tables.CANDIDATES` of all folds, without repeated test candidates.
        settings: The run's settings.
        n_list: Candidates that the model scores for a recommendation list; 0 leaves lists out.
        caches_images: Whether a service caches the states of item images between requests.
    """
    costs = []

    def add(work: str, n_prompts: float, n_prefixes: Mapping[PromptOrder, float]) -> None:
        first, second = (
            lengths[order].n_computed(n_prompts, n_prefixes[order]) for order in COMPARED
        )
        costs.append(OrderCost(work, item_first=first, user_first=second))

    training = candidates.filter(split="train")
    if settings.train.enabled and not training.is_empty():
        n_examples = training.height * settings.train.epochs
        prefixes = {
            order: n_examples * prefixes_per_example(training, order, settings.train)
            for order in lengths
        }
        add("training, forward passes", n_examples, prefixes)
    test = candidates.filter(split="test")
    distinct = {order: test.select(_SHARED[order]).n_unique() for order in lengths}
    add("test candidates", test.height, distinct)
    if n_list:
        one_user: dict[PromptOrder, float] = {"item-first": n_list, "user-first": 1}
        add(f"a list of {n_list} items", n_list, one_user)
        if caches_images:
            cached: dict[PromptOrder, float] = {"item-first": 0, "user-first": 1}
            add(f"a list of {n_list} items, images cached", n_list, cached)
    return tuple(costs)


def prefixes_per_example(rows: pl.DataFrame, order: PromptOrder, settings: TrainSettings) -> float:
    """Return the number of distinct prefixes in the batches of training, per example.

    Args:
        rows: Training candidates.
        order: Order of the prompts.
        settings: Training settings.
    """
    columns = _SHARED[order]
    if rows.is_empty():
        return 1.0
    if settings.objective == "listwise":
        # A batch has whole targets, whose candidates are different items.
        n_targets = rows.select("user_id", "position").n_unique()
        return n_targets / rows.height if order != "item-first" else 1.0
    groups = rows.select(pl.struct(columns).rank("dense")).to_series().to_numpy()
    size = min(settings.batch_size * settings.accumulate, rows.height)
    n_steps = min(_SAMPLED_STEPS, max(1, rows.height // size))
    sampler = StepSampler(
        np.zeros(rows.height, dtype=int).tolist(),
        size,
        n_steps=n_steps,
        seed=settings.seed,
        groups=groups.tolist(),
        whole_groups=order == "user-first",
    )
    n_prefixes = 0
    for step in range(n_steps):
        indices = sampler.indices(step)
        for start in range(0, size, settings.batch_size):
            n_prefixes += len(set(groups[indices[start : start + settings.batch_size]]))
    return n_prefixes / (n_steps * size)
