"""Scores of systems: from the run itself, or from a variant."""

from __future__ import annotations

from pathlib import Path

import pytest

import mock_runs
from mllm_msr.errors import RunFolderError
from mllm_msr.experiments._experiment import System, read_scores, score_systems
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.recommender import DIRECT


def test_a_variant_has_other_scores_for_the_same_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    data = mock_runs.world(tmp_path / "data")
    systems = [System("own", "own"), System("direct", "direct", variant=DIRECT)]
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        scores = score_systems(pipeline, systems)
    own, direct = scores["own"].scores, scores["direct"].scores
    assert own.drop("score").equals(direct.drop("score"))
    assert not own.equals(direct)


def test_only_variants_do_not_need_scores_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    data = mock_runs.world(tmp_path / "data")
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        score_systems(pipeline, [System("direct", "direct", variant=DIRECT)])
        with pytest.raises(RunFolderError):
            read_scores(pipeline.run, "zero_shot")
