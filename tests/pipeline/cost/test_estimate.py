"""The cost estimate against the usage of the run; rates, prices, budgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.cost import estimate
from mllm_msr.pipeline.cost.report import CostReport, ListCalls
from mllm_msr.pipeline.cost.token_counter import token_counter
from mllm_msr.pipeline.pipeline import Pipeline
from worlds import settings, write_files

LISTS = ListCalls(30, "retrieve.budget is set.")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_files(tmp_path / "raw", n_users=40, n_items=40)


def plan(data: Path, run: Path, *more: str, finished: tuple[str, ...] = ()) -> CostReport:
    """Prepare a run, run some more stages, and estimate the cost."""
    with Pipeline.open(run, load_settings("default", settings(data, *more))) as pipeline:
        for stage in ("prepare", *finished):
            pipeline.run_stage(stage)
        return estimate.plan(pipeline.context, pipeline.settings, lists=LISTS)


def usage(data: Path, run: Path) -> dict[str, dict[str, int]]:
    """Run the stages that call a model and return their usage."""
    with Pipeline.open(run, load_settings("default", settings(data))) as pipeline:
        pipeline.run_until("score")
        return {
            name: counts
            for stage in ("summarize", "infer", "score")
            for name, counts in pipeline.counts(stage).items()
            if "prompt_tokens" in counts
        }


def test_the_estimate_is_within_ten_percent_of_the_usage(data: Path, tmp_path: Path) -> None:
    report = plan(data, tmp_path / "plan", "plan.pilot=8", "plan.sample=30")
    costs = {stage.stage: stage for stage in report.stages}
    used = usage(data, tmp_path / "run")
    assert list(costs) == ["summarize", "infer", "score/zero_shot"]
    for name, counts in used.items():
        cost = costs[name]
        # The mock gives many users the same preference, and the run answers equal prompts once.
        per_call = counts["prompt_tokens"] / counts["misses"]
        assert cost.prompt_tokens / cost.calls == pytest.approx(per_call, rel=0.1)
        assert cost.calls + cost.cached_calls == counts["misses"] + counts["hits"]
    assert report.lengths_by == "a pilot of 8 items and users"


def test_without_a_pilot_the_estimate_is_an_upper_bound(data: Path, tmp_path: Path) -> None:
    bound = plan(data, tmp_path / "a", "plan.sample=30")
    measured = plan(data, tmp_path / "b", "plan.sample=30", "plan.pilot=8")
    assert bound.tokens > 2 * measured.tokens
    assert bound.lengths_by == "the limits in the settings (upper bound)"


def test_the_run_reuses_the_responses_of_a_pilot(data: Path, tmp_path: Path) -> None:
    plan(data, tmp_path / "run", "plan.pilot=8")
    assert usage(data, tmp_path / "run")["summarize"]["hits"] >= 9


def test_finished_stages_cost_nothing_and_give_lengths(data: Path, tmp_path: Path) -> None:
    report = plan(data, tmp_path / "run", "plan.sample=30", finished=("summarize", "infer"))
    assert [stage.done for stage in report.stages] == [True, True, False]
    assert report.lengths_by == "responses of this run"
    score = report.stages[-1]
    assert report.tokens == score.prompt_tokens + score.output_tokens


def test_stages_that_were_finished_with_other_settings_cost_again(
    data: Path, tmp_path: Path
) -> None:
    before = plan(data, tmp_path / "run", "plan.sample=30", finished=("summarize", "infer"))
    with Pipeline.open(tmp_path / "run", ["infer.words=9"]) as pipeline:
        report = estimate.plan(pipeline.context, pipeline.settings, lists=LISTS)
    assert [stage.done for stage in report.stages] == [True, False, False]
    assert report.tokens > before.tokens


def test_training_is_counted_by_epochs_and_has_no_price(data: Path, tmp_path: Path) -> None:
    options = ("train.enabled=true", "plan.sample=20", "plan.prompt_rate=100")
    one = plan(data, tmp_path / "a", *options, "train.epochs=1", "data.run_folds=[0]")
    three = plan(data, tmp_path / "b", *options, "train.epochs=3", "data.run_folds=[0]")
    first, third = (next(s for s in p.stages if s.stage == "train/0") for p in (one, three))
    assert third.prompt_tokens == pytest.approx(3 * first.prompt_tokens, abs=2)
    assert first.seconds == pytest.approx(3 * first.prompt_tokens / 100)
    assert first.price == 0.0
    assert [s.stage for s in one.stages][-2:] == ["score/zero_shot", "score/mllm_msr"]


def test_training_that_shares_prefixes_computes_fewer_tokens(data: Path, tmp_path: Path) -> None:
    options = ("train.enabled=true", "plan.sample=20", "data.run_folds=[0]")
    lists = ("train.objective=listwise", "recommend.order=user-first")
    shared = {}
    for name, more in {"lists": lists, "apart": (*lists, "train.cache_vision=false")}.items():
        report = plan(data, tmp_path / name, *options, *more)
        stage = next(stage for stage in report.stages if stage.stage == "train/0")
        shared[name] = stage.shared_tokens / stage.prompt_tokens
    assert shared["apart"] == 0
    # One of two prompts of a target computes the prefix.
    assert 0.1 < shared["lists"] < 0.5


def test_alignment_is_counted_by_examples_and_epochs(
    data: Path, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    options = [
        *(each for each in settings(data) if not each.startswith("model.")),
        "model.backend=huggingface",
        f"model.checkpoint={tiny_checkpoint('llava_efficientnet')}",
        "align.enabled=true",
        "align.epochs=3",
        "plan.prompt_rate=100",
        "plan.sample=100",
    ]
    with Pipeline.open(tmp_path / "run", load_settings("default", options)) as pipeline:
        pipeline.run_stage("prepare")
        report = estimate.plan(pipeline.context, pipeline.settings)
    stage = report.stages[0]
    assert stage.stage == "align"
    n_images = pl.read_parquet(tmp_path / "run" / "items.parquet")["image"].count()
    # Two examples of each item with an image, which has a title and a text.
    assert stage.calls == stage.images == 3 * 2 * n_images > 0
    assert stage.image_tokens > 0
    assert stage.price == stage.disk_bytes == stage.output_tokens == 0
    # Three passes over prompts and answers.
    assert stage.seconds is not None
    assert stage.seconds > 3 * stage.prompt_tokens / 100
    others = sum(s.prompt_tokens + s.output_tokens for s in report.stages[1:])
    assert report.tokens == others


def test_an_ensemble_with_the_mllm_scores_held_out_targets(data: Path, tmp_path: Path) -> None:
    options = ("score.baselines=[hybrid]", "plan.sample=20")
    members = "baselines.hybrid.members=[zero_shot, item_knn]"
    report = plan(data, tmp_path / "run", *options, members)
    cost = next(stage for stage in report.stages if stage.stage == "score/hybrid")
    candidates = pl.read_parquet(tmp_path / "run" / "candidates.parquet")
    # One target of each test user, and five negatives of each kind.
    n_users = candidates.filter(split="test").select("fold", "user_id").n_unique()
    assert cost.calls == n_users * (1 + 2 * 5) > 0
    assert cost.prompt_tokens > 0
    last = plan(data, tmp_path / "last", *options, members, "data.train_targets=last")
    cost = next(stage for stage in last.stages if stage.stage == "score/hybrid")
    candidates = pl.read_parquet(tmp_path / "last" / "candidates.parquet")
    assert cost.calls + cost.cached_calls == candidates.filter(split="validation").height > 0
    without = plan(data, tmp_path / "run", *options, "baselines.hybrid.members=[item_knn]")
    assert "score/hybrid" not in [stage.stage for stage in without.stages]


def test_orders_are_compared_unless_the_model_has_its_own(data: Path, tmp_path: Path) -> None:
    compared = plan(data, tmp_path / "a", "plan.sample=5").orders
    assert [cost.work for cost in compared] == ["test candidates", "a list of 30 items"]
    report = plan(data, tmp_path / "b", "plan.sample=5", "recommend.order=reranker")
    assert (report.orders, report.lists) == ((), LISTS)
    assert report.stages[-1].prompt_tokens > 0


def test_rates_and_prices_give_hours_and_a_price(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "token_counter", lambda *_: token_counter("mock", {}))
    options = (
        "plan.prompt_rate=1000",
        "plan.output_rate=100",
        "plan.prompt_price=2",
        "plan.output_price=8",
        "infer.model.backend=openai",
        "infer.model.checkpoint=some-model",
    )
    report = plan(data, tmp_path / "run", *options)
    infer = next(stage for stage in report.stages if stage.stage == "infer")
    n_input, n_output = infer.prompt_tokens, infer.output_tokens
    assert infer.seconds == pytest.approx(n_input / 1000 + n_output / 100, rel=1e-3)
    assert infer.price == pytest.approx((2 * n_input + 8 * n_output) / 1e6, rel=1e-3)
    assert report.price == infer.price
    assert report.hours == pytest.approx(sum(s.seconds or 0 for s in report.stages) / 3600)


def test_stages_that_are_skipped_cost_nothing(data: Path, tmp_path: Path) -> None:
    skipped = ("recommend.reads=history", "infer.enabled=false", "summarize.enabled=false")
    (stage,) = plan(data, tmp_path / "run", *skipped, "plan.pilot=2").stages
    assert stage.stage == "score/zero_shot"
    assert stage.prompt_tokens > 0
