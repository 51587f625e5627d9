"""The bill against what a run then really used; rates, prices, budgets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.cost import estimate
from mllm_msr.pipeline.cost.report import Plan, StageCost
from mllm_msr.pipeline.cost.token_counter import counter_for
from mllm_msr.pipeline.pipeline import Pipeline
from worlds import settings, write_files


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_files(tmp_path / "raw", n_users=40, n_items=40)


def planned(world: Path, run: Path, *more: str, done: tuple[str, ...] = ()) -> Plan:
    with Pipeline.open(run, load_settings("default", settings(world, *more))) as pipeline:
        for stage in ("prepare", *done):
            pipeline.run_stage(stage)
        return estimate.plan(pipeline.workspace)


def used(world: Path, run: Path) -> Iterator[tuple[str, dict[str, int]]]:
    with Pipeline.open(run, load_settings("default", settings(world))) as pipeline:
        pipeline.run_until("score")
        for stage in ("summarize", "infer", "score"):
            for name, counts in pipeline.counts(stage).items():
                if "prompt_tokens" in counts:
                    yield name, counts


def test_the_bill_is_within_a_tenth_of_what_the_run_then_uses(world: Path, tmp_path: Path) -> None:
    bill = planned(world, tmp_path / "plan", "plan.pilot=8", "plan.sample=30")
    costs = {stage.stage: stage for stage in bill.stages}
    spent = dict(used(world, tmp_path / "run"))
    assert list(costs) == ["summarize", "infer", "score/zero_shot"]
    for name, counts in spent.items():
        cost = costs[name]
        # The script gives many users one preference, whose equal questions the run asks once.
        by_call = counts["prompt_tokens"] / counts["misses"]
        assert cost.prompt_tokens / cost.calls == pytest.approx(by_call, rel=0.1)
        assert cost.calls + cost.spared_calls == counts["misses"] + counts["hits"]
    assert bill.lengths_by == "a pilot of 8 items and users"


def test_without_a_pilot_it_is_a_ceiling(world: Path, tmp_path: Path) -> None:
    ceiling = planned(world, tmp_path / "a", "plan.sample=30")
    piloted = planned(world, tmp_path / "b", "plan.sample=30", "plan.pilot=8")
    assert ceiling.tokens > 2 * piloted.tokens
    assert "a ceiling" in ceiling.lengths_by


def test_a_pilot_is_not_paid_for_twice(world: Path, tmp_path: Path) -> None:
    planned(world, tmp_path / "run", "plan.pilot=8")
    counts = dict(used(world, tmp_path / "run"))
    assert counts["summarize"]["hits"] >= 9


def test_what_is_done_costs_nothing_more_and_tells_lengths(world: Path, tmp_path: Path) -> None:
    bill = planned(world, tmp_path / "run", "plan.sample=30", done=("summarize", "infer"))
    costs = {stage.stage: stage for stage in bill.stages}
    assert [costs[name].done for name in costs] == [True, True, False]
    assert bill.lengths_by == "answers of this run"
    score = costs["score/zero_shot"]
    assert bill.tokens == score.prompt_tokens + score.output_tokens


def test_training_is_counted_by_its_epochs_and_not_by_its_price(
    world: Path, tmp_path: Path
) -> None:
    options = ("train.enabled=true", "plan.sample=20", "plan.prompt_rate=100")
    one = planned(world, tmp_path / "a", *options, "train.epochs=1", "data.run_folds=[0]")
    three = planned(world, tmp_path / "b", *options, "train.epochs=3", "data.run_folds=[0]")
    first, third = (next(s for s in p.stages if s.stage == "train/0") for p in (one, three))
    assert third.prompt_tokens == pytest.approx(3 * first.prompt_tokens, abs=2)
    assert first.seconds == pytest.approx(3 * first.prompt_tokens / 100)
    assert first.price == 0.0
    assert [s.stage for s in one.stages][-2:] == ["score/zero_shot", "score/mllm_msr"]


def test_a_hybrid_that_joins_the_model_costs_the_validation_users_too(
    world: Path, tmp_path: Path
) -> None:
    options = ("score.baselines=[hybrid]", "score.joined=[zero_shot]", "plan.sample=20")
    bill = planned(world, tmp_path / "run", *options)
    cost = next(s for s in bill.stages if s.stage == "validation/zero_shot")
    asked = pl.read_parquet(tmp_path / "run" / "candidates.parquet").filter(split="validation")
    assert cost.calls + cost.spared_calls == asked.height > 0
    assert cost.prompt_tokens > 0
    alone = planned(world, tmp_path / "run", *options, "score.baselines=[item_knn]")
    assert "validation/zero_shot" not in [s.stage for s in alone.stages]


def test_rates_and_prices_make_hours_and_money(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "counter_for", lambda *_: counter_for("mock", {}))
    options = (
        "plan.prompt_rate=1000",
        "plan.output_rate=100",
        "plan.prompt_price=2",
        "plan.output_price=8",
        "infer.model.backend=openai",
        "infer.model.checkpoint=some-model",
    )
    bill = planned(world, tmp_path / "run", *options)
    infer = next(stage for stage in bill.stages if stage.stage == "infer")
    read, written = infer.prompt_tokens, infer.output_tokens
    assert infer.seconds == pytest.approx(read / 1000 + written / 100, rel=1e-3)
    assert infer.price == pytest.approx((2 * read + 8 * written) / 1e6, rel=1e-3)
    assert bill.price == infer.price
    assert bill.hours == pytest.approx(sum(s.seconds or 0 for s in bill.stages) / 3600)


def test_a_run_warns_past_its_budget(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = load_settings(
        "default", settings(world, "plan.budget_tokens=10", "plan.budget_hours=1", "plan.sample=5")
    )
    with (
        caplog.at_level(logging.WARNING),
        Pipeline.open(tmp_path / "run", chosen) as pipeline,
    ):
        pipeline.run_until("summarize")
    assert "tokens, above plan.budget_tokens=10" in caplog.text
    assert "plan.budget_hours=1 cannot be checked without a rate" in caplog.text


def test_without_a_budget_nothing_is_planned(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(estimate, "plan")
    with Pipeline.open(tmp_path / "run", load_settings("default", settings(world))) as pipeline:
        pipeline.run_stage("prepare")
        assert estimate.warnings(pipeline.workspace) == []


def test_totals_leave_out_what_is_done_and_what_has_no_price() -> None:
    stages = (
        StageCost("summarize", "openai", prompt_tokens=5, price=1.0, seconds=1.0, done=True),
        StageCost("train/0", "openai", prompt_tokens=100, seconds=7200.0),
        StageCost(
            "score/x", "openai", prompt_tokens=30, output_tokens=3, price=2.0, seconds=3600.0
        ),
    )
    bill = Plan(stages, "words", "a pilot")
    assert (bill.tokens, bill.price, bill.hours) == (33, 2.0, 3.0)
    assert bill.to_dict()["remaining"] == {"tokens": 33, "price": 2.0, "hours": 3.0}
    assert Plan((StageCost("a", "b"),), "", "").hours is None
