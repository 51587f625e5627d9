"""`compare`: evaluates models on the candidates of one run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mllm_msr.errors import UnknownNameError


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_models_use_settings_from_a_file(invoke, run: Path, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("baselines: {transitions: {smoothing: 3.0}}\n")
    done = invoke(
        "compare", "--models", "transitions, popularity", "--run", run,
        "--config", tmp_path / "best.yaml", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["metrics"]) == ["transitions", "popularity"]
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert "transitions.smoothing" in stages["score/transitions"]["settings"]


def test_the_default_models_are_the_baselines_of_the_settings(invoke, run: Path) -> None:
    done = invoke("compare", "--run", run, "--json", "score.baselines=[popularity]")
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["metrics"]) == ["popularity"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("popularty", "Unknown model 'popularty'. Did you mean 'popularity'?"),
        (" , ", "No model is given"),
    ],
)
def test_unknown_models_are_rejected(fail, run: Path, models: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        fail("compare", "--models", models, "--run", run)
    assert str(caught.value).startswith(message)
