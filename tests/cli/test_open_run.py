"""Opening of run folders: precedence of settings, and the log of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.errors import RunFolderError


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
