"""Stage "score": a recommender that scores the catalogue at once ranks it for every test user."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import worlds
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.config import load_settings
from mllm_msr.pipeline import Pipeline


def ranked(folder: Path, data: Path, *more: str) -> dict[str, pl.DataFrame]:
    settings = load_settings("sound", worlds.settings(data, "score.zero_shot=false", *more))
    with Pipeline.open(folder, settings) as pipeline:
        for stage in ("prepare", "score"):
            pipeline.run_stage(stage)
    return {
        name: pl.read_parquet(folder / name / "popularity.parquet") for name in ("ranks", "top")
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return worlds.write_files(tmp_path / "data")


def test_a_dense_scorer_ranks_all_users_as_one_by_one_would(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = ranked(tmp_path / "dense", data, "score.full_users=2")
    monkeypatch.delattr(Popularity, "score_catalogue")
    sample = ranked(tmp_path / "sample", data, "score.full_users=2")
    every = ranked(tmp_path / "every", data, "score.full_users=99")
    assert (dense["ranks"].height, sample["ranks"].height) == (12, 6)
    for name in ("ranks", "top"):
        keys = dense[name].columns[:3]
        assert dense[name].sort(keys).equals(every[name].sort(keys)), name


def test_full_rankings_can_be_left_out(tmp_path: Path, data: Path) -> None:
    tables = ranked(tmp_path / "run", data, "score.full_users=0")
    assert [frame.height for frame in tables.values()] == [0, 0]
