"""Commands that run one stage and print what it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError, SettingsError


def test_a_stage_prints_its_counts_from_the_manifest(invoke, finished: Path) -> None:
    counts = json.loads(invoke("score", "--run", finished, "--json").stdout)
    assert set(counts) == {"score/zero_shot", "score/popularity"}
    assert counts["score/popularity"]["outputs"]


def test_a_stage_says_what_it_did_and_what_is_next(invoke, finished: Path) -> None:
    *sentences, step = invoke("score", "--run", finished).stdout.splitlines()
    assert max(map(len, sentences)) <= 80
    text = " ".join(sentences)
    assert text.startswith("Scored 264 candidates with zero_shot; 30 model calls, 234 from")
    assert "Scored 264 candidates with popularity" in text
    assert step == f"Next    mllm-msr evaluate --run {finished}"


@pytest.mark.parametrize("stage", ["summarize", "infer", "score", "report"])
def test_a_stage_does_not_run_earlier_stages(fail, tmp_path: Path, stage: str) -> None:
    with pytest.raises(RunFolderError):
        fail(stage, "--run", tmp_path / "empty", "model.backend=mock", "train.enabled=false")


def test_settings_are_validated_before_the_folder_is_created(fail, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"executor\.name='spark': must be 'local' or 'ray'"):
        fail("prepare", "--run", tmp_path / "run", "--executor", "spark")
    assert not (tmp_path / "run").exists()
