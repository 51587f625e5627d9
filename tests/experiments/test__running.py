"""Experiments end to end without a model: forked, resumed, repeated over seeds and worlds."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr import experiments
from mllm_msr.experiments import _results
from mllm_msr.experiments._running import own_seed, run_experiment
from mllm_msr.pipeline.pipeline import Pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> mock_runs.Script:
    def draw_nothing(path: Path, kind: str, **_: object) -> None:
        path.write_text(kind)

    monkeypatch.setattr(_results, "draw", draw_nothing)
    return mock_runs.install(monkeypatch)


def run(name: str, folder: Path, data: Path, *more: str, seeds=None, rows=None) -> dict:
    settings = mock_runs.load(data, *more)
    with Pipeline.open(folder, settings) as pipeline:
        results = run_experiment(experiments.find(name), pipeline, seeds=seeds, rows=rows)
    assert {path.name for path in results.iterdir()} == {
        f"{name}.{ending}" for ending in ("md", "svg", "png", "parquet", "json")
    }
    return json.loads((results / f"{name}.json").read_text())


def means(found: dict) -> dict[str, float]:
    return {row["name"]: row["results"]["uniform"]["auc"]["mean"] for row in found["rows"]}


def test_ablations_are_judged_on_common_users_and_leave_the_run_alone(
    tmp_path: Path, data: Path, script
) -> None:
    folder = tmp_path / "run"
    found = run("figure4", folder, data, "train.enabled=true")
    names = ["mllm_msr", "mllm_msr_direct", "mllm_msr_text_only", "zero_shot"]
    assert [row["name"] for row in found["rows"]] == names
    assert len(set(means(found).values())) == 4
    assert {row["results"]["uniform"]["auc"]["n"] for row in found["rows"]} == {8}
    pairs = {(c["first"], c["second"]) for c in found["comparisons"]}
    assert len(pairs) == 6
    # The run itself is not judged anew, nor does it list the variants among its models.
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert "evaluate" not in stages
    assert not any(name.startswith("score/mllm_msr_") for name in stages)
    # What is printed can be recomputed from the values per user.
    kept = pl.read_parquet(folder / "experiments" / "figure4" / "figure4.parquet")
    values = kept.filter(model="mllm_msr_direct", metric="auc", negatives="uniform", seed=0)[
        "value"
    ]
    assert values.mean() == pytest.approx(means(found)["mllm_msr_direct"])


def test_rows_are_those_asked_for_and_the_first_is_tested_against_the_others(
    tmp_path: Path, data: Path, script
) -> None:
    names = ["mllm_msr_text_only", "mllm_msr"]
    found = run("figure4", tmp_path / "run", data, "train.enabled=true", rows=names)
    assert [row["name"] for row in found["rows"]] == names
    assert {(c["first"], c["second"]) for c in found["comparisons"]} == {tuple(names)}
    variants = {path.name for path in (tmp_path / "run" / "variants").iterdir()}
    assert "mllm_msr_text_only" in variants
    assert "mllm_msr_direct" not in variants


def test_a_second_experiment_asks_only_for_what_is_new(tmp_path: Path, data: Path, script) -> None:
    run("figure4", tmp_path / "run", data)
    images, asked = script.asked["image"], dict(script.asked)
    run("figure5", tmp_path / "run", data)
    assert script.asked["image"] == images
    assert script.asked["generate"] > asked["generate"]
    asked = dict(script.asked)
    first = run("figure5", tmp_path / "run", data)
    assert script.asked == asked
    assert [row["x"] for row in first["rows"]] == [3, 1, 2, 4, 5, 6]


def test_an_experiment_that_died_ends_like_one_that_did_not(
    tmp_path: Path, data: Path, script
) -> None:
    whole = run("figure6", tmp_path / "whole", data)
    asked, script.asked = script.asked, dict.fromkeys(script.asked, 0)
    # Half-way: the run itself is done, and the variants are not.
    script.stop_at = sum(asked.values()) // 2
    with pytest.raises(KeyboardInterrupt):
        run("figure6", tmp_path / "cut", data)
    assert not (tmp_path / "cut" / "experiments").exists()
    script.stop_at = None
    assert run("figure6", tmp_path / "cut", data) == whole
    assert sum(script.asked.values()) == sum(asked.values()) + 1


def test_seeds_of_training_are_averaged_user_by_user(tmp_path: Path, data: Path, script) -> None:
    more = "train.enabled=true"
    one = run("figure4", tmp_path / "run", data, more)
    two = run("figure4", tmp_path / "run", data, more, seeds=[0, 1])
    assert two["seeds_are"] == "starts of training"
    by_seed = {
        record["seed"]: record["mean"]
        for record in two["by_seed"]
        if (record["model"], record["negatives"], record["metric"])
        == ("mllm_msr", "uniform", "auc")
    }
    assert by_seed[0] == pytest.approx(means(one)["mllm_msr"])
    assert by_seed[1] != pytest.approx(by_seed[0])
    assert means(two)["mllm_msr"] == pytest.approx((by_seed[0] + by_seed[1]) / 2)
    assert two["rows"][0]["results"]["uniform"]["auc"]["n"] == 8


def test_seeds_of_the_demo_are_worlds_whose_users_are_pooled(tmp_path: Path, script) -> None:
    small = ("dataset=demo", "data.n_items=30", "data.n_users=6", "data.cover_size=32")
    covers = tmp_path / "covers"
    assert own_seed(mock_runs.load(covers, *small)) == 0
    two = run("figure4", tmp_path / "run", covers, *small, seeds=[0, 2])
    assert two["seeds_are"] == "worlds"
    # Both worlds name their users alike, but they are others.
    assert two["rows"][0]["results"]["uniform"]["auc"]["n"] == 12
    kept = pl.read_parquet(tmp_path / "run" / "experiments" / "figure4" / "figure4.parquet")
    assert kept.select("seed", "user_id").unique().height == 12
    assert kept["user_id"].n_unique() == 6
    other = tmp_path / "run" / "variants" / "world2"
    assert (other / "variants" / "mllm_msr_direct" / "scores" / "zero_shot.parquet").is_file()
