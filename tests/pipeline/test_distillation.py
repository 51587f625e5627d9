"""Tests of the stage `distill`: what the teacher scores, and what the student learns from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import mock_runs
import worlds
from mllm_msr.baselines.student import Student
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings
from mllm_msr.errors import RunFolderError, StaleStageError
from mllm_msr.experiments._experiment import System, score_models
from mllm_msr.experiments.table3 import score_all
from mllm_msr.interfaces import TrainingData
from mllm_msr.pipeline.compare import compare
from mllm_msr.pipeline.cost.estimate import plan
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.pipeline.tune import tune
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder

TEACHER = f"{layout.TEACHER}/0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.write_files(tmp_path_factory.mktemp("data"), n_users=24, n_items=16)


def load(data: Path, *more: str) -> Settings:
    few = [
        "data.run_folds=[0]",
        "score.zero_shot=false",
        "score.baselines=[popularity]",
        "baselines.student.epochs=2",
        "baselines.student.hidden=8",
        "distill.enabled=true",
        "distill.list_size=3",
        "distill.budget=30",
    ]
    return load_settings(
        "default", mock_runs.overrides(data, "train.enabled=true", *few, *more), environment={}
    )


def run_distill(folder: Path, settings: Settings) -> pl.DataFrame:
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_until("distill")
        return pipeline.run.read(TEACHER)


def test_only_training_users_and_items_that_are_new_to_them_are_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        pipeline.run_until("distill")
        tables = RunTables(pipeline.run)
        table = pipeline.run.read(TEACHER)
        train_users = tables.training_data(0).train_users
        (counts,) = pipeline.counts("distill").values()
        others = pipeline.run.read(layout.CANDIDATES).filter(pl.col("split") != "train")
    assert table.height == counts["pairs"] == 30
    assert counts["lists"] == 10
    assert table["score"].is_between(0, 1).all()
    assert set(table["user_id"]) <= train_users
    assert others.join(table, on="user_id", how="semi").is_empty()
    known = tables.interactions().select("user_id", "item_id")
    assert table.join(known, on=["user_id", "item_id"], how="semi").is_empty()


def test_the_targets_of_test_users_change_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    table = run_distill(tmp_path / "run", load(data))
    splits = pl.read_parquet(tmp_path / "run/splits.parquet")
    test_users = splits.filter((pl.col("fold") == 0) & (pl.col("split") == "test"))["user_id"]
    rows = pl.read_csv(data / "interactions.csv")
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    hidden = last & pl.col("user_id").is_in(test_users.implode())
    # Another item that is new to the user.
    own = rows.group_by("user_id").agg(own="item_id")
    new = [
        next(f"item{i}" for i in range(16) if f"item{i}" not in items)
        for items in rows.join(own, on="user_id", maintain_order="left")["own"].to_list()
    ]
    changed = rows.with_columns(item_id=pl.when(hidden).then(pl.Series(new)).otherwise("item_id"))
    other = tmp_path / "other"
    worlds.write_files(other, n_users=24, n_items=16)
    changed.write_csv(other / "interactions.csv")
    assert changed.filter(hidden)["item_id"].to_list() != rows.filter(hidden)["item_id"].to_list()
    assert run_distill(tmp_path / "second", load(other)).equals(table)


def test_the_student_is_evaluated_beside_other_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        caplog.set_level(logging.INFO, logger="mllm_msr")
        pipeline.run_until("distill")
        assert "learns from 10 lists of the teacher" in caplog.text
        caplog.clear()
        result = compare(pipeline, ["student", "popularity"])
        assert "lists of the teacher" not in caplog.text  # the stage has stored the student
        stages = pipeline.run.stages
    assert set(result["metrics"]) == {"student", "popularity"}
    read = {layout.SUMMARIES, layout.PREFERENCES, TEACHER}
    assert read <= set(stages["score/student"]["inputs"])
    assert not read & set(stages["score/popularity"]["inputs"])


def test_the_student_proposes_items_for_the_lists_of_its_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    run_distill(tmp_path, load(data))
    recommender = MllmMsr.from_run(tmp_path)
    lists = [recommender.recommend(user, k=3) for user in ("user0", "user1")]
    generators = {name for items in lists for item in items for name in item.generators}
    assert "student" in generators


def test_the_preference_of_a_deleted_user_affects_no_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    run_distill(tmp_path, load(data))
    with MllmMsr.from_run(tmp_path) as model:
        student, history = model.retriever.generators["student"], model.users.history("user0")

    def scores(profile: Profile) -> dict[str, float]:
        return dict(zip(*student.propose(profile, 16), strict=True))

    unknown = scores(Profile("", history))
    assert scores(Profile("user0", history)) != unknown
    assert scores(Profile("user0", history, was_deleted=True)) == unknown


def test_each_fold_has_its_own_teacher_and_student(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mock_runs.install(monkeypatch)
    settings = load(data, "data.run_folds=[0, 1]", "train.enabled=false")
    with Pipeline.open(tmp_path, settings) as pipeline:
        caplog.set_level(logging.INFO, logger="mllm_msr")
        pipeline.run_until("distill")
        for fold in (0, 1):
            table = pipeline.run.read(f"{layout.TEACHER}/{fold}")
            assert set(table["user_id"]) <= RunTables(pipeline.run).training_data(fold).train_users
        assert caplog.text.count("lists of the teacher") == 2
        caplog.clear()
        compare(pipeline, ["student"])
        assert "lists of the teacher" not in caplog.text  # the stage has stored both students


def test_variants_score_no_pairs_for_a_student_that_they_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        pipeline.run_until("distill")
        compare(pipeline, ["mllm_msr_direct", "student"])
        with RunFolder.open(pipeline.run.folder / "variants/mllm_msr_direct") as variant:
            assert {"train/0", "score/mllm_msr"} <= set(variant.stages)
            assert "distill/0" not in variant.stages


@pytest.mark.parametrize("score", [score_all, score_models])
def test_experiments_score_the_student_with_its_teacher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, score: Callable[..., object]
) -> None:
    counter = mock_runs.install(monkeypatch)
    systems = [System(name, name, model=name) for name in ("student", "popularity")]
    models = systems if score is score_all else [system.name for system in systems]
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        score(pipeline, models)
        table = pipeline.run.read(TEACHER)
        n_prompts = counter.counts["score"]
        (variant,) = (pipeline.run.folder / "variants").iterdir()
        score(pipeline, models)
    assert n_prompts == counter.counts["score"]
    with RunFolder.open(variant) as run:
        assert run.read(TEACHER).equals(table)
        assert TEACHER in run.stages["score/student"]["inputs"]


def test_an_ensemble_for_lists_is_fitted_again_if_the_teacher_of_a_member_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    ensemble = [
        "retrieve.generators=[hybrid]",
        "baselines.hybrid.members=[student, popularity]",
    ]
    run_distill(tmp_path, load(data, "train.enabled=false"))
    n_lists: list[int] = []
    fit = Student.fit

    def recorded(self: Student, data: TrainingData) -> Student:
        assert data.teacher is not None
        n_lists.append(data.teacher.height)
        return fit(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Student, "fit", recorded)
        for _ in range(2):  # the second start reuses the fitted ensemble
            load_run(tmp_path, overrides=ensemble)
    assert n_lists == [30, 30]  # a copy without held-out targets, and the member
    with Pipeline.open(tmp_path, {"distill.budget": 42}, force=True) as pipeline:
        pipeline.run_stage("distill")
    monkeypatch.setattr(Student, "fit", recorded)
    load_run(tmp_path, overrides=ensemble)
    assert n_lists == [30, 30, 42, 42]


def test_without_teacher_scores_the_student_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mock_runs.install(monkeypatch)
    settings = load(data, "distill.enabled=false")
    with Pipeline.open(tmp_path, settings) as pipeline:
        compare(pipeline, ["student"])
        assert "no teacher scores, so the student learns from interactions only" in caplog.text
        assert pipeline.counts("distill") == {}
        enabled = pipeline.with_settings({"distill.enabled": True})
        with pytest.raises(RunFolderError, match="Run the stage 'distill' first"):
            compare(enabled, ["student"])


def test_an_interrupted_stage_asks_no_prompt_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    counter = mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path / "run", load(data)) as pipeline:
        pipeline.run_until("train")
        before = sum(counter.counts.values())
        counter.stop_at = before + 12
        with pytest.raises(KeyboardInterrupt):
            pipeline.run_stage("distill")
        counter.stop_at = None
        assert not pipeline.run.has(TEACHER)
        pipeline.run_stage("distill")
        table = pipeline.run.read(TEACHER)
        n_prompts = sum(counter.counts.values()) - before
    assert n_prompts <= table.height + 1  # the prompt that was interrupted
    assert run_distill(tmp_path / "uninterrupted", load(data)).equals(table)


def test_the_plan_contains_the_calls_of_the_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        pipeline.run_stage("prepare")
        report = plan(pipeline.context, pipeline.settings)
    (stage,) = [stage for stage in report.stages if stage.stage == "distill/0"]
    assert stage.calls == 30


def test_a_search_reads_the_scores_of_the_teacher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        pipeline.run_until("distill")
        caplog.set_level(logging.INFO, logger="mllm_msr")
        (found,) = tune(pipeline, ["student"], trials=1)
    assert "learns from 10 lists of the teacher" in caplog.text
    assert found.model == "student"


def test_other_settings_of_the_student_or_the_stage_are_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    mock_runs.install(monkeypatch)
    with Pipeline.open(tmp_path, load(data)) as pipeline:
        pipeline.run_until("distill")
        for change in ({"distill.budget": 42}, {"baselines.student.epochs": 3}):
            with pytest.raises(StaleStageError, match=next(iter(change)).split(".")[-1]):
                pipeline.with_settings(change).run_stage("distill")
        more = pipeline.with_settings({"distill.budget": 42}, force=True)
        more.run_stage("distill")
        assert pipeline.run.read(TEACHER).height == 42
    entry = json.loads((tmp_path / "manifest.json").read_text())["stages"]["distill/0"]
    assert entry["counts"]["hits"] > 0  # prompts of the first call come from the cache
