"""Stage "score": who ranks the catalogue, what a hybrid is told, and what is kept of a kill."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import mock_runs
import worlds
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import StaleStageError
from mllm_msr.models.encoders.hashing import HashingEncoder
from mllm_msr.pipeline.pipeline import Pipeline


def ranked(folder: Path, data: Path, *more: str) -> dict[str, pl.DataFrame]:
    settings = load_settings("default", worlds.settings(data, "score.zero_shot=false", *more))
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
    monkeypatch.delattr(Popularity, "score_catalog")
    sample = ranked(tmp_path / "sample", data, "score.full_users=2")
    every = ranked(tmp_path / "every", data, "score.full_users=99")
    assert (dense["ranks"].height, sample["ranks"].height) == (12, 6)
    for name in ("ranks", "top"):
        keys = dense[name].columns[:3]
        assert dense[name].sort(keys).equals(every[name].sort(keys)), name


def test_full_rankings_can_be_left_out(tmp_path: Path, data: Path) -> None:
    tables = ranked(tmp_path / "run", data, "score.full_users=0")
    assert [frame.height for frame in tables.values()] == [0, 0]


def test_who_requires_llm_ranks_the_catalogue_only_where_that_is_wanted(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Popularity, "score_catalog")
    monkeypatch.setattr(Popularity, "requires_llm", True)
    assert ranked(tmp_path / "none", data, "score.full_users=9")["ranks"].is_empty()
    few = ranked(tmp_path / "few", data, "score.full_users=9", "score.full_users_mllm=1")
    assert few["ranks"].height == 3  # one user of each fold


HYBRID = (
    "score.zero_shot=false",
    "score.baselines=[hybrid]",
    "baselines.hybrid.parts=[item_knn, popularity]",
)


def score(folder: Path, data: Path, *more: str) -> dict[str, dict]:
    """A run up to its scores; its manifest's stages."""
    with Pipeline.open(folder, mock_runs.load(data, *more)) as pipeline:
        pipeline.run_until("score")
    return json.loads((folder / "manifest.json").read_text())["stages"]


def test_a_hybrid_is_told_what_the_tuned_model_says(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = mock_runs.install(monkeypatch)
    run = tmp_path / "run"
    stages = score(run, data, "train.enabled=true", *HYBRID)
    candidates = pl.read_parquet(run / "candidates.parquet").filter(split="validation")
    told = pl.read_parquet(run / "validation" / "mllm_msr.parquet")
    keys = ["fold", "negatives", "user_id", "item_id", "label"]
    assert told.select(keys).sort(keys).equals(candidates.select(keys).sort(keys))
    assert {"validation/mllm_msr", "scores/mllm_msr"} < {*stages["score/hybrid"]["inputs"]}
    assert "validation/popularity" not in stages
    # The full catalogue was not put to the model, so nobody can say how a hybrid ranks it.
    assert pl.read_parquet(run / "ranks" / "hybrid.parquet").is_empty()
    asked = dict(script.asked)
    for made in ("validation/mllm_msr", "scores/mllm_msr"):
        (run / f"{made}.parquet").unlink()
    assert score(run, data, "train.enabled=true", *HYBRID)["validation/mllm_msr"]["counts"]
    assert script.asked == asked  # all from the response cache


def test_a_hybrid_is_refused_where_the_model_has_become_another_one(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    score(
        tmp_path / "run", data, "train.enabled=true", "score.zero_shot=false", "score.baselines=[]"
    )
    settings = mock_runs.load(data, *HYBRID, "train.enabled=false", "train.max_text_tokens=9")
    with (
        Pipeline.open(tmp_path / "run", settings) as pipeline,
        pytest.raises(StaleStageError, match="'score/mllm_msr' was finished under other"),
    ):
        pipeline.run_stage("score")


def test_a_hybrid_without_a_model_that_scored_is_what_it_was(tmp_path: Path, data: Path) -> None:
    stages = score(tmp_path / "run", data, *HYBRID)
    assert set(stages["score/hybrid"]["inputs"]) == {
        "interactions", "items", "splits", "candidates",
    }  # fmt: skip
    assert pl.read_parquet(tmp_path / "run" / "ranks" / "hybrid.parquet").height > 0


def test_a_hybrid_can_be_kept_from_the_model(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    stages = score(tmp_path / "run", data, "train.enabled=true", "score.joined=[]", *HYBRID)
    assert "validation/mllm_msr" not in stages


def test_a_hybrid_ranks_the_catalogue_for_whom_the_model_did(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    score(tmp_path / "run", data, "train.enabled=true", "score.full_users_mllm=1", *HYBRID)
    keys = ["fold", "user_id"]
    ranks = {
        name: pl.read_parquet(tmp_path / "run" / "ranks" / f"{name}.parquet")
        .select(keys)
        .sort(keys)
        for name in ("hybrid", "mllm_msr")
    }
    assert ranks["hybrid"].height == 2  # one user in each fold
    assert ranks["hybrid"].equals(ranks["mllm_msr"])


def test_content_is_encoded_once_for_all_folds_and_models(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = HashingEncoder.encode
    monkeypatch.setattr(
        HashingEncoder, "encode", lambda self, texts: encoded.append(1) or encode(self, texts)
    )
    models = [
        "score.baselines=[content_knn, hybrid]",
        "baselines.hybrid.parts=[content_knn, item_knn]",
    ]
    score(tmp_path / "run", data, "score.zero_shot=false", *models)
    assert len(encoded) == 1


@pytest.mark.slow
def test_a_killed_comparison_goes_on_with_the_epoch_that_came_next(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = (
        "data.run_folds=[0]",
        "baselines.sasrec.epochs=12",
        "baselines.sasrec.early_stopping_patience=12",
    )
    settings = mock_runs.overrides(data, "score.zero_shot=false", *few)
    cut = tmp_path / "cut"
    program = [sys.executable, "-m", "mllm_msr", "compare", "--run", str(cut)]
    with subprocess.Popen(
        [*program, "--models", "sasrec", *settings], stdout=subprocess.DEVNULL
    ) as process:
        while not [*cut.glob("cache/baselines/*/sasrec-*/state-00000002")]:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert not (cut / "scores" / "sasrec.parquet").exists()
    score(tmp_path / "whole", data, "score.zero_shot=false", "score.baselines=[sasrec]", *few)
    with caplog.at_level(logging.INFO, logger="mllm_msr"):
        score(cut, data, "score.zero_shot=false", "score.baselines=[sasrec]", *few)
    assert "going on from epoch" in caplog.text
    for table in ("scores", "ranks"):
        found = [
            pl.read_parquet(tmp_path / run / table / "sasrec.parquet") for run in ("cut", "whole")
        ]
        assert found[0].equals(found[1])
    assert not (cut / "cache" / "baselines").exists()
