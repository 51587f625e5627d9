"""Comparisons: only requested work is done, variants share stages, all use the same candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr.errors import DataError, SettingsError, StaleStageError, UnknownNameError, UsageError
from mllm_msr.evaluation.report import report
from mllm_msr.pipeline.compare import ABLATIONS, compare, known_models, run_variant
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.recommender import Variant


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> mock_runs.PromptCounter:
    monkeypatch.setattr(report, "write_report", write_nothing)
    return mock_runs.install(monkeypatch)


def write_nothing(folder: Path, **_: object) -> None:
    """Replace the report, whose plots take seconds."""
    for name in ("report.html", "report.md"):
        (folder / name).write_text("nothing")


def run(folder: Path, data: Path, models: Sequence[str], *more: str) -> dict:
    with Pipeline.open(folder, mock_runs.load(data, *more)) as pipeline:
        return compare(pipeline, models)


def stages(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["stages"]


def test_baselines_alone_call_no_model(tmp_path: Path, data: Path, counter) -> None:
    found = run(tmp_path / "run", data, ["popularity", "item_knn"])
    assert list(found["metrics"]) == ["popularity", "item_knn"]
    assert sum(counter.counts.values()) == 0
    assert set(stages(tmp_path / "run")) == {
        "prepare", "score/popularity", "score/item_knn", "evaluate", "report",
    }  # fmt: skip


def test_the_models_are_a_list(tmp_path: Path, data: Path, counter) -> None:
    with pytest.raises(UsageError, match=r"The models are 'item_knn'\. Pass a list"):
        run(tmp_path / "run", data, "item_knn")


def test_a_later_call_adds_models_and_evaluates_all_of_them(tmp_path: Path, data: Path, counter):
    first = run(tmp_path / "run", data, ["popularity"])
    before = stages(tmp_path / "run")["score/popularity"]
    second = run(tmp_path / "run", data, ["item_knn", "popularity"])
    assert list(second["metrics"]) == ["item_knn", "popularity"]
    assert stages(tmp_path / "run")["score/popularity"] == before
    assert second["metrics"]["popularity"] == first["metrics"]["popularity"]
    details = json.loads((tmp_path / "run" / "details.json").read_text())
    pairs = {(record["first"], record["second"]) for record in details["comparisons"]}
    assert pairs == {("popularity", "item_knn")}
    again = stages(tmp_path / "run")
    run(tmp_path / "run", data, ["item_knn", "popularity"])
    assert stages(tmp_path / "run") == again


def test_ablations_share_the_stages_before_the_difference(
    tmp_path: Path, data: Path, counter
) -> None:
    models = ["mllm_msr", "mllm_msr_direct", "mllm_msr_text_only", "zero_shot"]
    found = run(tmp_path / "run", data, models, "train.enabled=true")
    assert list(found["metrics"]) == models
    whole = stages(tmp_path / "run")
    for name in ABLATIONS:
        variant = stages(tmp_path / "run" / "variants" / name)
        for shared in ("prepare", "summarize"):
            assert variant[shared] == whole[shared]
        assert variant["infer"]["outputs"] != whole["infer"]["outputs"]
        assert "score/zero_shot" not in variant
        scores = pl.read_parquet(tmp_path / "run" / "scores" / f"{name}.parquet")
        kept = tmp_path / "run" / "variants" / name / "scores" / "mllm_msr.parquet"
        assert scores.equals(pl.read_parquet(kept))
    # The run and its variants share the description of each image.
    assert counter.counts["image"] == whole["summarize"]["counts"]["image_ok"] > 0
    n_prompts = dict(counter.counts)
    again = run(tmp_path / "run", data, models, "train.enabled=true")
    assert again == found
    assert counter.counts == n_prompts


def test_a_killed_comparison_resumes_without_repeating_prompts(
    tmp_path: Path, data: Path, counter
) -> None:
    models = ["mllm_msr", "mllm_msr_direct"]
    whole = run(tmp_path / "whole", data, models, "train.enabled=true")
    n_prompts, counter.counts = counter.counts, dict.fromkeys(counter.counts, 0)
    counter.stop_at = sum(n_prompts.values()) - 10  # inside the variant's scoring
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", data, models, "train.enabled=true")
    counter.stop_at = None
    cut = run(tmp_path / "cut", data, models, "train.enabled=true")
    assert cut["metrics"] == whole["metrics"]
    # Only the prompt at which the process was killed is repeated.
    assert sum(counter.counts.values()) == sum(n_prompts.values()) + 1


def test_a_variant_with_other_candidates_is_rejected(tmp_path: Path, data: Path, counter) -> None:
    other = Variant("other", overrides=("data.n_negatives=4",))
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_stage("prepare")
        with (
            pytest.raises(DataError, match="differ from those of the run"),
            run_variant(pipeline, other),
        ):
            pass


def test_changed_arguments_of_a_baseline_are_rejected_by_name(tmp_path: Path, data: Path, counter):
    run(tmp_path / "run", data, ["item_knn"])
    with pytest.raises(StaleStageError, match=r"item_knn\.decay was the default .* is now 0\.5"):
        run(tmp_path / "run", data, ["item_knn"], "baselines.item_knn.decay=0.5")
    found = run(tmp_path / "new", data, ["item_knn"], "baselines.item_knn.decay=0.5")
    assert set(found["metrics"]) == {"item_knn"}


def test_force_scores_given_models_again_and_repeats_no_earlier_stage(
    tmp_path: Path, data: Path, counter
) -> None:
    folder = tmp_path / "run"
    run(folder, data, ["mllm_msr", "item_knn", "popularity"], "train.enabled=true")
    before = stages(folder)
    with Pipeline.open(folder, ["baselines.item_knn.decay=0.5"], force=True) as pipeline:
        compare(pipeline, ["mllm_msr", "item_knn"])
    after = stages(folder)
    redone = {name for name in before if before[name] != after[name]}
    assert redone == {"score/mllm_msr", "score/item_knn", "evaluate", "report"}
    assert after["score/item_knn"]["settings"]["item_knn.decay"] == 0.5
    with (
        Pipeline.open(folder, ["data.n_negatives=4"], force=True) as pipeline,
        pytest.raises(StaleStageError, match=r"'mllm-msr prepare --run \S+ --force'"),
    ):
        compare(pipeline, ["item_knn"])
    with (
        Pipeline.open(folder, ["baselines.item_knn.decay=0.6"], force=True) as pipeline,
        pytest.raises(StaleStageError, match="'score/item_knn' was finished"),
    ):
        compare(pipeline, ["popularity"])
    assert stages(folder) == after


def test_unknown_models_are_rejected_before_any_work(tmp_path: Path, data: Path, counter):
    with pytest.raises(UnknownNameError, match=r"Unknown model 'sasrek'. Did you mean 'sasrec'"):
        run(tmp_path / "run", data, ["popularity", "sasrek"])
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert {"mllm_msr", "mllm_msr_direct", "mllm_msr_text_only", "zero_shot", "popularity"} <= {
        *known_models()
    }


def test_wrong_arguments_of_a_baseline_are_rejected_before_they_are_saved(
    tmp_path: Path, data: Path
) -> None:
    with pytest.raises(SettingsError, match="epochs must be at least 1, but is -1"):
        run(tmp_path / "run", data, ["sasrec"], "baselines.sasrec.epochs=-1")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_ensemble_runs_the_stages_of_its_mllm_members(
    tmp_path: Path, data: Path, counter: mock_runs.PromptCounter
) -> None:
    members = "baselines.hybrid.members=[mllm_msr, popularity]"
    found = run(tmp_path / "run", data, ["hybrid"], members)
    assert list(found["metrics"]) == ["hybrid"]
    assert "infer" in stages(tmp_path / "run")
    assert {"train/0", "train/1"} <= set(stages(tmp_path / "run"))
    assert counter.counts["score"] > 0
