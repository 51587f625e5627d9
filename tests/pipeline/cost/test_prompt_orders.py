"""Comparison of the orders of the ranker's prompt: tokens counted by hand and in a run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.config.settings import Settings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.pipeline.cost import estimate
from mllm_msr.pipeline.cost.prompt_orders import (
    PromptLengths,
    compare_orders,
    prefixes_per_example,
)
from mllm_msr.pipeline.cost.report import CostReport, ListCalls, OrderCost
from mllm_msr.pipeline.pipeline import Pipeline
from worlds import settings, write_files

# Long images make item-first prompts share more than user-first prompts.
LENGTHS: dict[PromptOrder, PromptLengths] = {
    "item-first": PromptLengths(100, 60),
    "user-first": PromptLengths(100, 30),
}


def candidates(split: str, n_users: int, items: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"split": split, "user_id": f"u{user}", "position": 5, "item_id": item}
            for user in range(n_users)
            for item in items
        ]
    )


def test_each_shared_beginning_is_computed_once() -> None:
    assert PromptLengths(100, 60).n_computed(10, 4) == 10 * 100 - 6 * 60
    assert PromptLengths(100, 60).n_computed(10, 0) == 10 * 40
    assert PromptLengths(100, 60).n_computed(3, 4) == 300


def test_the_candidates_of_a_listwise_target_share_one_prefix() -> None:
    rows = candidates("train", 4, ["a", "b", "c"])
    train = TrainSettings(objective="listwise", batch_size=2)
    assert prefixes_per_example(rows, "user-first", train) == pytest.approx(1 / 3)
    assert prefixes_per_example(rows, "item-first", train) == 1
    # One example for each batch shares nothing.
    assert prefixes_per_example(rows, "user-first", TrainSettings(batch_size=1)) == 1
    assert prefixes_per_example(rows.clear(), "user-first", train) == 1


def test_items_are_shared_by_many_users_and_users_by_long_lists() -> None:
    test = candidates("test", 40, ["a", "b"])
    few_items, one_list = compare_orders(
        LENGTHS, test, Settings(train=TrainSettings(enabled=False)), n_list=50, caches_images=False
    )
    assert few_items == OrderCost("test candidates", 80 * 100 - 78 * 60, 80 * 100 - 40 * 30)
    assert few_items.cheaper == "item-first"
    assert one_list == OrderCost("a list of 50 items", 50 * 100, 30 + 50 * 70)
    assert one_list.cheaper == "user-first"


def test_a_service_with_cached_images_may_be_cheaper_item_first() -> None:
    test = candidates("test", 2, ["a"])
    options = Settings(train=TrainSettings(enabled=False))
    costs = compare_orders(LENGTHS, test, options, n_list=50, caches_images=True)
    assert costs[-1] == OrderCost("a list of 50 items, images cached", 50 * 40, 30 + 50 * 70)


def test_a_list_without_calls_is_left_out() -> None:
    test = candidates("test", 2, ["a"])
    options = Settings(train=TrainSettings(enabled=False))
    [cost] = compare_orders(LENGTHS, test, options, n_list=0, caches_images=True)
    assert cost.work == "test candidates"


def test_training_batches_of_users_contain_whole_targets() -> None:
    # All items differ, so that only prompts of one target share something.
    rows = pl.concat(
        candidates("train", 1, [f"{user}-{n}" for n in range(4)]).with_columns(
            user_id=pl.lit(f"u{user}")
        )
        for user in range(64)
    )
    options = Settings(train=TrainSettings(batch_size=8, epochs=2))
    training = compare_orders(LENGTHS, rows, options, n_list=50, caches_images=False)[0]
    assert training.item_first == 2 * 256 * 100
    assert training.user_first == 2 * (256 * 100 - (256 - 64) * 30)


@pytest.mark.parametrize("order", ["item-first", "user-first"])
def test_a_plan_counts_the_prompts_of_the_run_in_both_orders(order: str, tmp_path: Path) -> None:
    data = write_files(tmp_path / "raw", n_users=40, n_items=40)
    options = settings(data, "plan.sample=30", f"recommend.order={order}")
    with Pipeline.open(tmp_path / "run", load_settings("default", options)) as pipeline:
        pipeline.run_stage("prepare")
        lists = ListCalls(20, "")
        report: CostReport = estimate.plan(pipeline.context, pipeline.settings, lists=lists)
    test, one_list = report.orders
    assert (test.work, one_list.work) == ("test candidates", "a list of 20 items")
    # The mock backend counts words. Prompts that begin with the user share the instruction, too.
    assert one_list.user_first < 0.7 * one_list.item_first
    score = report.stages[-1]
    computed = {"item-first": test.item_first, "user-first": test.user_first}[order]
    assert score.prompt_tokens - score.shared_tokens == pytest.approx(computed, rel=0.01)
    assert 0 < score.shared_tokens < score.prompt_tokens
