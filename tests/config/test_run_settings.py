"""Settings saved in a run folder: priority, damage, and runs that are only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.config.run_settings import load_finished_settings, load_run_settings, with_checksum
from mllm_msr.errors import DamagedFileError, RunFolderError, SettingsError

DATA = ["dataset=files", "data.path=shop"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder with saved settings."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = load_settings("default", [*DATA, "train.rank=4"], environment={})
    (folder / "config.yaml").write_text(with_checksum(settings.to_yaml()))
    return folder


def test_saved_settings_apply_unless_a_preset_is_given(run: Path) -> None:
    assert load_run_settings(run, environment={}).train.rank == 4
    changed = load_run_settings(run, ["train.seed=7"], environment={})
    assert (changed.train.rank, changed.train.seed) == (4, 7)
    demo = load_settings("demo", environment={})
    assert load_run_settings(run, preset="demo", environment={}) == demo
    assert load_run_settings(run, ["preset=demo"], environment={}) == demo


def test_a_new_folder_starts_from_the_default_preset(tmp_path: Path) -> None:
    settings = load_run_settings(tmp_path / "new", DATA, environment={})
    assert settings == load_settings("default", DATA, environment={})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("rank: 4", "rank: 8"),
        lambda text: text.replace("rank: 4", "rank: ["),
        lambda text: text + "serve: {max_queue: 1}\n",
        lambda text: "\n".join(text.splitlines()[:-1]),
    ],
)
def test_damaged_settings_are_rejected_and_can_be_accepted(run: Path, damage) -> None:
    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(damage(text))
    assert config.read_text() != text
    for load in (load_run_settings, load_finished_settings):
        with pytest.raises(DamagedFileError, match=r"config\.yaml is not what a command has"):
            load(run)


def test_bytes_that_are_no_text_are_rejected(run: Path) -> None:
    (run / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedFileError, match=r"config\.yaml cannot be read"):
        load_run_settings(run)


def test_edited_settings_can_be_accepted_explicitly(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("rank: 4", "rank: 16"))
    with pytest.raises(DamagedFileError, match=r"accept it with 'mllm-msr run .*--config"):
        load_run_settings(run, environment={})
    assert load_run_settings(run, file=config, environment={}).train.rank == 16


def test_missing_settings_of_a_finished_run_are_rejected(run: Path) -> None:
    assert load_finished_settings(run).train.rank == 4
    (run / "manifest.json").write_text("{}")
    (run / "config.yaml").unlink()
    with pytest.raises(DamagedFileError, match=r"config\.yaml is missing\. Restore it"):
        load_finished_settings(run)
    (run / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match="does not contain a run"):
        load_finished_settings(run)


def test_a_preset_cannot_replace_the_settings_of_a_finished_run(run: Path) -> None:
    with pytest.raises(SettingsError, match="A preset cannot replace"):
        load_finished_settings(run, ["preset=demo"])
