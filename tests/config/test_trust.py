"""Trust: a run folder alone never selects who receives prompts, keys or events."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from mllm_msr.config import trust
from mllm_msr.config.loading import load_settings
from mllm_msr.config.run_settings import load_finished_settings, load_run_settings, with_checksum
from mllm_msr.errors import UsageError

ENDPOINT = ["model.backend=openai", "model.checkpoint=tiny"]
FOREIGN = [*ENDPOINT, "model.url=https://collector.example/v1"]
COLLECTOR = "{url: 'https://c.example/v1', key_variable: AWS_SECRET_ACCESS_KEY, checkpoint: tiny}"
STOLEN = [*FOREIGN, "model.key_variable=AWS_SECRET_ACCESS_KEY"]


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start without trusted runs, and return the folder of their records."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "home" / "mllm-msr" / "trusted-runs"


def make_run(folder: Path, overrides: list[str]) -> Path:
    """Write the settings of another person's run."""
    folder.mkdir()
    settings = load_settings("default", ["dataset=demo", *overrides], environment={})
    text = settings.to_yaml()
    for override in overrides:
        if override.startswith("serve.state="):
            text = text.replace("serve:\n", f"serve:\n  state: {override.partition('=')[2]}\n")
    (folder / "config.yaml").write_text(with_checksum(text))
    return folder


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (STOLEN, ["model.url=https://collector", "model.key_variable=AWS_SECRET_ACCESS_KEY"]),
        (FOREIGN, ["model.url=https://collector.example/v1"]),
        (
            [f"{section}.{text}" for section in ("infer",) for text in STOLEN],
            ["infer.model.url=https://collector", "infer.model.key_variable=AWS_SECRET"],
        ),
        ([f"summarize.{text}" for text in FOREIGN], ["summarize.model.url="]),
        ([f"score.{text}" for text in FOREIGN], ["score.model.url="]),
        (
            [
                "baselines.llava_zero_shot.backend=openai",
                f"baselines.llava_zero_shot.options={COLLECTOR}",
            ],
            [
                "baselines.llava_zero_shot.options.url=https://c.example/v1",
                "baselines.llava_zero_shot.options.key_variable=AWS_SECRET_ACCESS_KEY",
            ],
        ),
        (["executor.name=ray", "executor.address=ray://h:1"], ["executor.address=ray://h:1"]),
        (["train.loggers=[csv, wandb]"], ["train.loggers=", "wandb"]),
        (["serve.state=postgresql://h/events"], ["serve.state=postgresql://h/events"]),
        (
            ["images.download=true", "images.allowed_hosts=[h.example]"],
            ["images.allowed_hosts=", "h.example"],
        ),
    ],
)
def test_destinations_of_a_foreign_run_are_rejected(
    tmp_path: Path, overrides: list[str], named: list[str]
) -> None:
    run = make_run(tmp_path / "run", overrides)
    for load in (load_run_settings, load_finished_settings):
        with pytest.raises(UsageError, match="If you trust them, repeat them") as caught:
            load(run)
        for text in named:
            assert text in str(caught.value)


def test_repeated_settings_are_accepted_and_remembered(tmp_path: Path, records: Path) -> None:
    run = make_run(tmp_path / "run", STOLEN)
    with pytest.raises(UsageError, match=r"model\.key_variable=AWS_SECRET_ACCESS_KEY"):
        load_finished_settings(run, [FOREIGN[-1]])
    load_finished_settings(run, [*FOREIGN[-1:], STOLEN[-1]])
    # Later commands need no repetition, and the values are not stored in the clear.
    assert load_finished_settings(run).model.plugin_kwargs()["url"].startswith("https://collector")
    (record,) = records.iterdir()
    assert "collector" not in record.read_text()
    assert record.stat().st_mode & 0o777 == 0o600
    # Another value is not accepted.
    shutil.rmtree(run)
    make_run(run, [*ENDPOINT, "model.url=https://other.example/v1"])
    with pytest.raises(UsageError, match=r"model\.url=https://other\.example"):
        load_finished_settings(run)


def test_the_environment_and_own_files_count_as_given(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FOREIGN)
    environment = {"MLLM_MSR__MODEL__URL": "https://collector.example/v1"}
    file = tmp_path / "mine.yaml"
    file.write_text("model: {url: 'https://collector.example/v1'}\n")
    with pytest.raises(UsageError):
        load_run_settings(run, environment={})
    copies = [Path(shutil.copytree(run, tmp_path / name)) for name in ("a", "b")]
    load_run_settings(copies[0], environment=environment)
    load_run_settings(copies[1], file=file, environment={})


def test_a_copy_at_another_path_is_another_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FOREIGN)
    load_finished_settings(run, FOREIGN[-1:])
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    with pytest.raises(UsageError):
        load_finished_settings(copy)
    (tmp_path / "link").symlink_to(run)
    load_finished_settings(tmp_path / "link")


def test_an_endpoint_on_this_machine_needs_no_repetition_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", [*ENDPOINT, "model.url=http://127.0.0.1:9/v1"])
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    load_finished_settings(run)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(UsageError, match=r"model\.url=http://127\.0\.0\.1:9/v1"):
        load_finished_settings(copy)


def test_runs_without_destinations_leave_no_record(tmp_path: Path, records: Path) -> None:
    run = make_run(tmp_path / "run", [])
    load_finished_settings(run)
    assert not records.exists()


def test_an_unwritable_configuration_folder_is_a_warning(
    tmp_path: Path, records: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run", FOREIGN)
    records.parent.mkdir(parents=True)
    records.write_text("a file")
    with caplog.at_level(logging.WARNING):
        load_finished_settings(run, FOREIGN[-1:])
    assert "must be repeated in each command" in caplog.text


def test_a_damaged_record_trusts_nothing(tmp_path: Path, records: Path) -> None:
    run = make_run(tmp_path / "run", FOREIGN)
    trust.remember(run, load_settings(None, FOREIGN, environment={}))
    load_finished_settings(run)
    (record,) = records.iterdir()
    record.write_text(record.read_text().replace("model.url", "model.uri"))
    with pytest.raises(UsageError):
        load_finished_settings(run)
