"""What a workspace hands to baselines: nothing hidden, and of items what the settings allow."""

from __future__ import annotations

import contextlib
from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr.config.loading import load_settings
from mllm_msr.interfaces import TrainingData
from mllm_msr.pipeline.context import Workspace, silent
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder with summaries, and its data."""
    folder = tmp_path_factory.mktemp("workspace")
    data = mock_runs.world(folder / "data")
    with Pipeline.open(folder / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_until("summarize")
    return folder / "run", data


def training_data(run: tuple[Path, Path], *more: str) -> TrainingData:
    folder, data = run
    with Pipeline.open(folder, mock_runs.load(data, *more)) as pipeline:
        return pipeline.workspace.training_data(0)


def test_no_test_users_target_is_among_the_training_data(run: tuple[Path, Path]) -> None:
    given = training_data(run)
    assert set(given.candidates["split"]) == {"train", "validation"}
    candidates = pl.read_parquet(run[0] / "candidates.parquet")
    targets = candidates.filter(fold=0, label=1).filter(pl.col("split") != "train")
    assert targets.height > 0
    seen = given.interactions.join(targets, on=["user_id", "position"], how="semi")
    assert seen.is_empty()
    every = pl.read_parquet(run[0] / "interactions.parquet")
    assert given.interactions.height == every.height - targets["user_id"].n_unique()


def test_baselines_read_of_items_what_the_settings_allow(run: tuple[Path, Path]) -> None:
    every = training_data(run).items
    assert every["image"].null_count() == every.height // 2
    text = training_data(run, "baselines.content=text").items
    assert text.drop("image").equals(every.drop("image"))
    assert text["image"].null_count() == text.height
    image = training_data(run, "baselines.content=image").items
    assert image["image"].equals(every["image"])
    assert set(image["title"]) | set(image["text"]) == {""}
    told = training_data(run, "baselines.content=image_summary").items
    assert told["item_id"].equals(every["item_id"])
    assert set(told["title"]) == {""}
    assert told["image"].null_count() == told.height
    summaries = dict(
        pl.read_parquet(run[0] / "summaries.parquet")["item_id", "image_summary"].iter_rows()
    )
    assert [summaries[row["item_id"]] or "" for row in told.iter_rows(named=True)] == told[
        "text"
    ].to_list()
    assert "A plain square." in told["text"].to_list()


def test_a_model_of_this_process_can_keep_what_it_read(run: tuple[Path, Path]) -> None:
    settings = load_settings("default", ["dataset=demo"], environment={})
    assert settings.model.backend == "demo"
    here = Workspace(RunFolder.open(run[0], read_only=True), settings, force=False, progress=silent)
    assert here.can_keep_images
    with contextlib.closing(here.bare_backend(prefix_cache_bytes=10**6)) as backend:
        assert backend.fingerprint == here.bare_backend().fingerprint
    with Pipeline.open(run[0], mock_runs.load(run[1])) as pipeline:
        elsewhere = pipeline.workspace
        assert not elsewhere.can_keep_images
        elsewhere.bare_backend(prefix_cache_bytes=10**6, threads=1).close()
