"""The pipeline over a run folder: finished stages are skipped and stale stages rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

import worlds
from mllm_msr import tables
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings
from mllm_msr.datasets.files import Files
from mllm_msr.errors import (
    RunFolderError,
    RunLockedError,
    SettingsError,
    StaleStageError,
    UnknownNameError,
    UsageError,
)
from mllm_msr.interfaces import RawData
from mllm_msr.pipeline.pipeline import STAGES, Pipeline, evaluate_files
from mllm_msr.pipeline.stages import prepare
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return worlds.write_files(tmp_path / "data")


def load(data: Path, *more: str) -> Settings:
    return load_settings("default", worlds.settings(data, *more), environment={})


def run(
    folder: Path, settings: Settings, *, force: bool = False, report: bool = False
) -> dict[str, pl.DataFrame]:
    """Run all stages, the slow report only on request, and return all tables."""
    with Pipeline.open(folder, settings, force=force) as pipeline:
        for name in STAGES:
            if report or name != "report":
                pipeline.run_stage(name)
    return {
        str(path.relative_to(folder)): pl.read_parquet(path)
        for path in sorted(folder.rglob("*.parquet"))
    }


def test_a_run_writes_the_documented_files(tmp_path: Path, data: Path) -> None:
    written = run(tmp_path / "run", load(data), report=True)
    assert set(written) == {
        "candidates.parquet",
        "target_profiles.parquet",
        "interactions.parquet",
        "items.parquet",
        "metrics_per_user.parquet",
        "preferences.parquet",
        "ranks/popularity.parquet",
        "ranks/zero_shot.parquet",
        "scores/popularity.parquet",
        "scores/zero_shot.parquet",
        "splits.parquet",
        "summaries.parquet",
        "top/popularity.parquet",
        "top/zero_shot.parquet",
    }
    for name, frame in written.items():
        schema = tables.SCHEMAS.get(name.split("/")[0].removesuffix(".parquet"))
        assert schema is None or dict(frame.schema) == dict(schema), name
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics) == {"zero_shot", "popularity"}
    assert set(metrics["popularity"]) == {"uniform", "popularity", "full"}
    assert set(metrics["popularity"]["uniform"]["auc"]) == {"mean", "low", "high", "n"}
    # The mock model gives every candidate 0.5: ties have the value of chance, not 1.0.
    assert metrics["zero_shot"]["uniform"]["auc"]["mean"] == pytest.approx(0.5)
    assert metrics["zero_shot"]["uniform"]["hr@5"]["mean"] == pytest.approx(5 / 11)
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "report.md").is_file()
    # Every user is a test user exactly once over the folds.
    users = written["scores/popularity.parquet"].filter(pl.col("label") == 1)
    assert users.group_by("user_id", "negatives").len()["len"].to_list() == [1] * 24


def test_finished_stages_are_skipped(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "run"
    run(folder, load(data))
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
    run(folder, load(data))
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")} == before


def test_the_saved_settings_start_the_same_run(tmp_path: Path, data: Path) -> None:
    run(tmp_path / "run", load(data))
    kept = load_settings(None, file=tmp_path / "run" / "config.yaml", environment={})
    assert kept == load(data)


def test_changed_settings_are_rejected_by_name_and_forced_on_request(
    tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "run"
    run(folder, load(data))
    with pytest.raises(StaleStageError, match=r"(?s)infer.*words.*--force"):
        run(folder, load(data, "infer.words=5"))
    written = run(folder, load(data, "infer.words=5"), force=True)
    assert written["preferences.parquet"]["preference"].str.split(" ").list.len().max() == 5


def test_a_stage_without_its_inputs_names_the_stage_to_run(tmp_path: Path, data: Path) -> None:
    with (
        Pipeline.open(tmp_path / "run", load(data)) as pipeline,
        pytest.raises(RunFolderError, match="prepare"),
    ):
        pipeline.run_stage("summarize")


def test_a_second_process_is_rejected(tmp_path: Path, data: Path) -> None:
    with (
        RunFolder.open(tmp_path / "run"),
        pytest.raises(RunLockedError, match=r"is in use by process \d+"),
        Pipeline.open(tmp_path / "run", load(data)),
    ):
        pass


def test_stages_one_by_one_equal_the_whole_run(tmp_path: Path, data: Path) -> None:
    whole = run(tmp_path / "whole", load(data))
    for name in list(STAGES)[:-1]:
        with Pipeline.open(tmp_path / "parts", load(data)) as pipeline:
            pipeline.run_stage(name)
    parts = {
        str(path.relative_to(tmp_path / "parts")): pl.read_parquet(path)
        for path in sorted((tmp_path / "parts").rglob("*.parquet"))
    }
    assert whole.keys() == parts.keys()
    for name in whole:
        assert whole[name].equals(parts[name]), name


def test_no_target_is_read_by_its_own_preference(tmp_path: Path, data: Path) -> None:
    written = run(tmp_path / "run", load(data))
    lengths = written["interactions.parquet"].group_by("user_id").len()
    final = written["preferences.parquet"].filter("final").join(lengths, on="user_id")
    assert final.height == lengths.height
    assert (final["n_items"] == final["len"].cast(pl.Int32) - 1).all()


def test_external_scores_are_evaluated_like_our_own(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "run"
    run(folder, load(data))
    found = evaluate_files(
        folder / "candidates.parquet", [folder / "scores/popularity.parquet"], load(data)
    )
    own = json.loads((folder / "metrics.json").read_text())["popularity"]
    assert found.summary["popularity"]["uniform"]["auc"] == pytest.approx(own["uniform"]["auc"])


def test_an_evaluation_of_no_file_is_an_error(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="No score table is given"):
        evaluate_files(tmp_path / "c.csv", [], load(data))


def test_lists_that_are_left_out_and_missing_scores_are_warnings(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    candidates, scores = tmp_path / "c.csv", tmp_path / "s.csv"
    candidates.write_text("user_id,item_id,label\nu,a,1\nu,b,0\nv,a,0\nv,b,0\n")
    scores.write_text("user_id,item_id,score\nu,a,1\nu,b,\nv,a,1\nv,b,0\n")
    found = evaluate_files(candidates, [scores], load(data))
    assert found.summary["s"]["external"]["auc"]["n"] == 1
    assert "s.csv: 1 lists are left out, because they lack a positive or a negative" in caplog.text
    assert "s.csv: 1 candidates without a score rank last" in caplog.text


def test_scope_read_summarizes_only_items_that_preferences_read(tmp_path: Path, data: Path) -> None:
    whole = run(tmp_path / "whole", load(data, "infer.max_items=3"))
    part = run(tmp_path / "part", load(data, "infer.max_items=3", "summarize.scope=read"))
    assert part["summaries.parquet"].height < whole["summaries.parquet"].height
    assert part["preferences.parquet"].equals(whole["preferences.parquet"])


def test_linked_images_are_downloaded_on_request(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(urls: pl.DataFrame, folder: Path, **_: object) -> pl.DataFrame:
        asked.extend(urls["item_id"])
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        paths = [str(folder / "a.png")] + [None] * (urls.height - 1)
        status = ["ok"] + ["refused"] * (urls.height - 1)
        return urls.select(
            "item_id", image=pl.Series(paths), status=pl.Series(status), reason=pl.lit("x")
        )

    loaded = Files.load

    def load_with_links(self: Files) -> RawData:
        raw = loaded(self)
        links = raw.items.select("item_id", url=pl.lit("https://host/a.png"))
        return replace(raw, image_urls=links)

    monkeypatch.setattr(prepare, "fetch_images", fetch)
    monkeypatch.setattr(Files, "load", load_with_links)
    with Pipeline.open(tmp_path / "run", load(data, "images.download=true")) as pipeline:
        pipeline.run_stage("prepare")
        counts = pipeline.counts("prepare")["prepare"]
    items = pl.read_parquet(tmp_path / "run/items.parquet")
    # Only missing images are downloaded, and stored in the run folder.
    own = items.filter(~pl.col("item_id").is_in(asked))
    assert own["image"].null_count() == 0
    (downloaded,) = items.filter(pl.col("item_id").is_in(asked))["image"].drop_nulls()
    with Image.open(tmp_path / "run" / downloaded) as image:
        assert image.size == (8, 8)
    assert (counts["download_ok"], counts["download_refused"]) == (1, len(asked) - 1)


def test_a_rejected_stage_leaves_the_saved_settings_unchanged(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    first = load_settings("default", worlds.settings(data), environment={})
    with Pipeline.open(tmp_path / "run", first) as pipeline:
        pipeline.run_until("infer")
    before = (tmp_path / "run/config.yaml").read_text(encoding="utf-8")
    other = load_settings("default", [*worlds.settings(data), "infer.words=7"], environment={})
    with Pipeline.open(tmp_path / "run", other) as pipeline, pytest.raises(StaleStageError):
        pipeline.run_until("infer")
    assert (tmp_path / "run/config.yaml").read_text(encoding="utf-8") == before


def test_unknown_stages_are_rejected_with_the_known_ones(tmp_path: Path, data: Path) -> None:
    with (
        Pipeline.open(tmp_path / "run", load(data)) as pipeline,
        pytest.raises(UnknownNameError, match=r"Unknown stage 'evalute'. Did you mean 'evaluate'"),
    ):
        pipeline.run_stage("evalute")


def test_settings_are_saved_only_on_request(tmp_path: Path, data: Path) -> None:
    with Pipeline.open(tmp_path / "run", load(data)) as pipeline:
        pipeline.run_stage("prepare")
    saved = (tmp_path / "run/config.yaml").read_text(encoding="utf-8")
    with Pipeline.open(tmp_path / "run", load(data, "infer.words=7")) as pipeline:
        pipeline.run_stage("prepare", save_settings=False)
        assert (tmp_path / "run/config.yaml").read_text(encoding="utf-8") == saved
        pipeline.run_stage("prepare")
        assert (tmp_path / "run/config.yaml").read_text(encoding="utf-8") != saved


def test_settings_can_be_a_mapping(tmp_path: Path) -> None:
    values = {"preset": "demo", "data": {"n_users": 60, "n_items": 60, "covers": str(tmp_path)}}
    with Pipeline.open(str(tmp_path / "run"), values) as pipeline:
        pipeline.run_stage("prepare")
        assert pipeline.settings.preset == "demo"
        assert pipeline.tables.interactions()["user_id"].n_unique() <= 60
    with pytest.raises(SettingsError, match=r"Did you mean 'train\.seed'"):
        Pipeline.open(tmp_path / "other", {"train.sede": 1})
    with pytest.raises(RunFolderError, match=r"There is no run folder.*name its dataset"):
        Pipeline.open(tmp_path / "other", {"train.seed": 1})
    assert not (tmp_path / "other").exists()


def test_a_pipeline_works_without_a_with_block(tmp_path: Path, data: Path) -> None:
    pipeline = Pipeline.open(tmp_path / "run", load(data))
    pipeline.run_stage("prepare")
    assert repr(pipeline) == f"Pipeline({str(tmp_path / 'run')!r}, preset='default', done: prepare)"
    assert '<th scope="row">summarize</th><td>not run</td>' in pipeline._repr_html_()
    with pytest.raises(RunLockedError, match=r"which is this one\. Close it first"):
        Pipeline.open(tmp_path / "run")
    pipeline.close()
    pipeline.close()
    Pipeline.open(tmp_path / "run").close()


def test_an_existing_run_keeps_its_settings_except_those_to_change(
    tmp_path: Path, data: Path
) -> None:
    with Pipeline.open(tmp_path / "run", load(data, "infer.words=33")) as pipeline:
        pipeline.run_stage("prepare")
        assert pipeline.with_settings({"infer.words": 9}).settings.infer.words == 9
    with Pipeline.open(tmp_path / "run") as pipeline:
        assert pipeline.settings.infer.words == 33
    with Pipeline.open(tmp_path / "run", {"infer": {"block_size": 2}}) as pipeline:
        assert (pipeline.settings.infer.words, pipeline.settings.infer.block_size) == (33, 2)
    with pytest.raises(RunFolderError, match="no run folder"):
        Pipeline.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_unknown_stages_are_errors_before_any_work(tmp_path: Path, data: Path) -> None:
    with Pipeline.open(tmp_path / "run", load(data)) as pipeline:
        for call in (pipeline.run_until, pipeline.run_stage, pipeline.counts):
            with pytest.raises(UnknownNameError, match="Did you mean 'evaluate'"):
                call("evalute")
        assert not pipeline.run.stages


def test_each_stage_runs_once_and_is_reported(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    loaded = Files.load
    monkeypatch.setattr(Files, "load", lambda self: loads.append("") or loaded(self))
    done: list[str] = []
    with Pipeline.open(tmp_path / "run", load(data), force=True) as pipeline:
        pipeline.run_until("infer", done=done.append)
    assert done == ["prepare", "align", "summarize", "infer"]
    assert len(loads) == 1
