"""Experiments end to end with a mock model: variants, resuming, training seeds and data seeds."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr import experiments
from mllm_msr.config.loading import override
from mllm_msr.experiments import _results
from mllm_msr.experiments._runner import own_seed, run_experiment
from mllm_msr.pipeline.pipeline import Pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> mock_runs.PromptCounter:
    def draw_nothing(path: Path, kind: str, **_: object) -> None:
        path.write_text(kind)

    monkeypatch.setattr(_results, "draw", draw_nothing)
    return mock_runs.install(monkeypatch)


def run(name: str, folder: Path, data: Path, *more: str, seeds=None, systems=None) -> dict:
    settings = override(mock_runs.load(data), more)
    with Pipeline.open(folder, settings) as pipeline:
        results = run_experiment(experiments.find(name), pipeline, seeds=seeds, systems=systems)
    assert {path.name for path in results.iterdir()} == {
        f"{name}.{ending}" for ending in ("md", "svg", "png", "parquet", "json")
    }
    return json.loads((results / f"{name}.json").read_text())


def means(found: dict) -> dict[str, float]:
    systems = found["systems"]
    return {system["name"]: system["results"]["uniform"]["auc"]["mean"] for system in systems}


def test_ablations_have_the_same_users_and_leave_the_run_unchanged(
    tmp_path: Path, data: Path, counter
) -> None:
    folder = tmp_path / "run"
    found = run("figure4", folder, data, "train.enabled=true")
    names = ["mllm_msr", "mllm_msr_direct", "mllm_msr_text_only", "zero_shot"]
    assert [system["name"] for system in found["systems"]] == names
    assert len(set(means(found).values())) == 4
    cells = [system["results"]["uniform"]["auc"] for system in found["systems"]]
    assert {cell["n"] for cell in cells} == {8}
    pairs = {(c["first"], c["second"]) for c in found["comparisons"]}
    assert len(pairs) == 6
    # The run itself is not evaluated, and the variants are not among its models.
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert "evaluate" not in stages
    assert not any(name.startswith("score/mllm_msr_") for name in stages)
    # The means can be recomputed from the values per user.
    per_user = pl.read_parquet(folder / "experiments" / "figure4" / "figure4.parquet")
    direct = per_user.filter(model="mllm_msr_direct", metric="auc", negatives="uniform", seed=0)
    assert direct["value"].mean() == pytest.approx(means(found)["mllm_msr_direct"])


def test_each_finished_stage_is_logged_once(
    tmp_path: Path, data: Path, counter, caplog: pytest.LogCaptureFixture
) -> None:
    more = ("plan.budget_tokens=1", "train.enabled=true")
    systems = ["mllm_msr", "mllm_msr_direct"]
    run("figure4", tmp_path / "run", data, *more, systems=systems)
    found = [message.partition(" is estimated")[0] for message in caplog.messages]
    budgets = ["The run", "mllm_msr_direct: The run"]
    assert [message for message in found if message.endswith("The run")] == budgets
    caplog.clear()
    with caplog.at_level("INFO", logger="mllm_msr.pipeline"):
        run("figure4", tmp_path / "run", data, *more, systems=systems)
    own = ["infer", "train/0", "train/1", "score/mllm_msr"]
    done = ["prepare", "summarize", *own, *(f"mllm_msr_direct: {stage}" for stage in own)]
    messages = [message for message in caplog.messages if message.endswith(" is already done")]
    assert messages == [f"{stage} is already done" for stage in done]


def test_only_selected_systems_are_scored(tmp_path: Path, data: Path, counter) -> None:
    names = ["mllm_msr_text_only", "mllm_msr"]
    found = run("figure4", tmp_path / "run", data, "train.enabled=true", systems=names)
    assert [system["name"] for system in found["systems"]] == names
    assert {(c["first"], c["second"]) for c in found["comparisons"]} == {tuple(names)}
    variants = {path.name for path in (tmp_path / "run" / "variants").iterdir()}
    assert "mllm_msr_text_only" in variants
    assert "mllm_msr_direct" not in variants


def test_a_second_experiment_reuses_responses(tmp_path: Path, data: Path, counter) -> None:
    run("figure4", tmp_path / "run", data)
    images, n_prompts = counter.counts["image"], dict(counter.counts)
    run("figure5", tmp_path / "run", data)
    assert counter.counts["image"] == images
    assert counter.counts["generate"] > n_prompts["generate"]
    n_prompts = dict(counter.counts)
    first = run("figure5", tmp_path / "run", data)
    assert counter.counts == n_prompts
    assert [system["x"] for system in first["systems"]] == [3, 1, 2, 4, 5, 6]


def test_a_resumed_experiment_has_the_results_of_an_uninterrupted_one(
    tmp_path: Path, data: Path, counter
) -> None:
    whole = run("figure6", tmp_path / "whole", data)
    n_prompts, counter.counts = counter.counts, dict.fromkeys(counter.counts, 0)
    # In the middle: the run itself is finished, its variants are not.
    counter.stop_at = sum(n_prompts.values()) // 2
    with pytest.raises(KeyboardInterrupt):
        run("figure6", tmp_path / "cut", data)
    assert not (tmp_path / "cut" / "experiments").exists()
    counter.stop_at = None
    assert run("figure6", tmp_path / "cut", data) == whole
    assert sum(counter.counts.values()) == sum(n_prompts.values()) + 1


def test_training_seeds_are_averaged_per_user(tmp_path: Path, data: Path, counter) -> None:
    more = "train.enabled=true"
    one = run("figure4", tmp_path / "run", data, more)
    two = run("figure4", tmp_path / "run", data, more, seeds=[0, 1])
    assert two["seeds_of"] == "training"
    by_seed = {
        record["seed"]: record["mean"]
        for record in two["by_seed"]
        if (record["model"], record["negatives"], record["metric"])
        == ("mllm_msr", "uniform", "auc")
    }
    assert by_seed[0] == pytest.approx(means(one)["mllm_msr"])
    assert by_seed[1] != pytest.approx(by_seed[0])
    assert means(two)["mllm_msr"] == pytest.approx((by_seed[0] + by_seed[1]) / 2)
    assert two["systems"][0]["results"]["uniform"]["auc"]["n"] == 8


def test_seeds_of_the_demo_generate_data_and_their_users_are_pooled(
    tmp_path: Path, counter
) -> None:
    small = ["dataset=demo", "data.n_items=30", "data.n_users=6", "data.cover_size=32"]
    small += [f"data.covers={tmp_path}"]
    assert own_seed(override(mock_runs.load(tmp_path), small)) == 0
    two = run("figure4", tmp_path / "run", tmp_path, *small, seeds=[0, 2])
    assert two["seeds_of"] == "data"
    # Both datasets use the same user ids for different users.
    assert two["systems"][0]["results"]["uniform"]["auc"]["n"] == 12
    per_user = pl.read_parquet(tmp_path / "run" / "experiments" / "figure4" / "figure4.parquet")
    assert per_user.select("seed", "user_id").unique().height == 12
    assert per_user["user_id"].n_unique() == 6
    other = tmp_path / "run" / "variants" / "data_seed_2"
    assert (other / "variants" / "mllm_msr_direct" / "scores" / "zero_shot.parquet").is_file()
