"""Stage "score": full rankings, ensembles with the MLLM as a member, and resuming after a kill."""

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
from mllm_msr.baselines import hybrid
from mllm_msr.baselines._ensemble.held_out import HeldOut, hold_out
from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import SettingsError, StaleStageError
from mllm_msr.models.encoders.text.hashing import HashingEncoder
from mllm_msr.pipeline import stage_io
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


def test_scoring_the_catalog_at_once_equals_scoring_one_by_one(
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


def test_models_that_call_an_llm_rank_the_catalog_only_on_request(
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
    "baselines.hybrid.members=[item_knn, popularity]",
)
WITH_MLLM = (
    "train.enabled=true",
    "score.zero_shot=false",
    "score.baselines=[hybrid]",
    "baselines.hybrid.members=[mllm_msr, item_knn, popularity]",
)


def score(folder: Path, data: Path, *more: str) -> dict[str, dict]:
    """Run up to the stage "score" and return the manifest's stages."""
    with Pipeline.open(folder, mock_runs.load(data, *more)) as pipeline:
        pipeline.run_until("score")
    return json.loads((folder / "manifest.json").read_text())["stages"]


def test_the_mllm_as_a_member_scores_held_out_targets_once(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = mock_runs.install(monkeypatch)
    run = tmp_path / "run"
    held_out: list[HeldOut | None] = []
    monkeypatch.setattr(
        hybrid,
        "hold_out",
        lambda *args, **kw: held_out.append(hold_out(*args, **kw)) or held_out[-1],
    )
    stages = score(run, data, *WITH_MLLM)
    conditions = stages["score/hybrid"]
    assert {"preferences", "summaries", "folds/0/adapter"} <= set(conditions["inputs"])
    assert conditions["model"] == stages["score/mllm_msr"]["model"]
    candidates = pl.read_parquet(run / "candidates.parquet")
    folds = [each for each in held_out if each is not None]
    assert len(folds) == 2
    for fold, held in enumerate(folds):
        trained = candidates.filter(fold=fold, split="train")["user_id"]
        assert not set(trained) & set(held.read["user_id"])
    expected = candidates.filter(split="test").height + sum(h.read.height for h in folds)
    counts = conditions["counts"]
    assert counts["hits"] + counts["misses"] == expected
    # The MLLM has not ranked the full catalog, so neither does the ensemble.
    assert pl.read_parquet(run / "ranks" / "hybrid.parquet").is_empty()
    n_prompts = dict(counter.counts)
    for name in ("mllm_msr", "hybrid"):
        (run / "scores" / f"{name}.parquet").unlink()
    score(run, data, *WITH_MLLM)
    assert counter.counts == n_prompts  # the response cache answers


def test_an_ensemble_is_stale_if_its_mllm_has_changed(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    score(tmp_path / "run", data, *WITH_MLLM)
    settings = mock_runs.load(data, *WITH_MLLM, "train.max_text_tokens=9")
    with (
        Pipeline.open(tmp_path / "run", settings) as pipeline,
        pytest.raises(StaleStageError, match="max_text_tokens"),
    ):
        stage_io.score(pipeline.context, settings, names=["hybrid"])


def test_the_default_members_include_the_mllm_if_it_has_scored(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    settings = mock_runs.load(data, "train.enabled=true", "score.zero_shot=false")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("train")
        before = pipeline.recommenders.conditions("hybrid").settings["hybrid.members"]
        pipeline.run_stage("score")
        after = pipeline.recommenders.conditions("hybrid").settings["hybrid.members"]
    assert after == ["mllm_msr", *before]


def test_an_ensemble_of_baselines_calls_no_model(tmp_path: Path, data: Path) -> None:
    stages = score(tmp_path / "run", data, *HYBRID)
    assert set(stages["score/hybrid"]["inputs"]) == {
        "interactions", "items", "splits", "candidates",
    }  # fmt: skip
    assert stages["score/hybrid"]["model"] is None
    assert pl.read_parquet(tmp_path / "run" / "ranks" / "hybrid.parquet").height > 0


def test_members_that_the_run_does_not_score_are_rejected(tmp_path: Path, data: Path) -> None:
    members = "baselines.hybrid.members=[mllm_msr, popularity]"
    with pytest.raises(SettingsError, match="contains mllm_msr, which this run does not score"):
        score(tmp_path / "run", data, "score.baselines=[hybrid]", members)


def test_an_ensemble_ranks_the_catalog_for_the_users_that_its_mllm_ranks(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    score(tmp_path / "run", data, "score.full_users_mllm=1", *WITH_MLLM)
    keys = ["fold", "user_id"]
    ranks = {
        name: pl.read_parquet(tmp_path / "run" / "ranks" / f"{name}.parquet")
        .select(keys)
        .sort(keys)
        for name in ("hybrid", "mllm_msr")
    }
    assert ranks["hybrid"].height == 2  # one user in each fold
    assert ranks["hybrid"].equals(ranks["mllm_msr"])


def test_members_have_the_settings_of_their_sections_and_are_reused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []
    fit = ItemKnn.fit
    monkeypatch.setattr(ItemKnn, "fit", lambda self, data: fitted.append(self) or fit(self, data))
    score(
        tmp_path / "run", data, *HYBRID, "score.baselines=[item_knn, hybrid]",
        "baselines.item_knn.prior=0.25",
    )  # fmt: skip
    # Once per fold, not again for the hybrid, which fits one copy without held-out targets.
    assert len(fitted) == 2 * 2
    assert all(model._settings["prior"] == 0.25 for model in fitted)


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
        "baselines.hybrid.members=[content_knn, item_knn]",
    ]
    score(tmp_path / "run", data, "score.zero_shot=false", *models)
    assert len(encoded) == 1


@pytest.mark.slow
def test_a_killed_comparison_resumes_with_the_next_epoch(
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
    assert "Resuming training after" in caplog.text
    for table in ("scores", "ranks"):
        found = [
            pl.read_parquet(tmp_path / run / table / "sasrec.parquet") for run in ("cut", "whole")
        ]
        assert found[0].equals(found[1])
    assert not (cut / "cache" / "baselines").exists()
