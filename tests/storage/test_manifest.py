"""Manifest: reading and writing it, looking up outputs, and explaining what has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.errors import DamagedFileError, RunFolderError, StaleStageError
from mllm_msr.storage import manifest
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.storage.verification import dump


def conditions(**settings: object) -> manifest.Conditions:
    return manifest.Conditions(
        settings=settings, inputs={"items": "a" * 64}, templates={}, model="tiny@1"
    )


def entry(**settings: object) -> manifest.Entry:
    return manifest.Entry(
        **conditions(**settings),
        counts={"items": 2},
        seconds=1.5,
        outputs={
            "summaries.parquet": manifest.Record(sha256="b" * 64, bytes=7),
            "metrics.json": manifest.Record(sha256="c" * 64, bytes=8),
        },
    )


def write(folder: Path, **content: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def test_saved_stages_are_loaded_in_the_same_order(tmp_path: Path) -> None:
    stages = {"summarize": entry(k=5), "again": entry(name="größer")}
    manifest.save(tmp_path, stages)
    assert list(manifest.load(tmp_path).items()) == list(stages.items())
    assert "größer" in (tmp_path / "manifest.json").read_text(encoding="utf-8")


def test_no_changed_digit_goes_unnoticed(tmp_path: Path) -> None:
    manifest.save(tmp_path, {"summarize": entry(k=5)})
    text = (tmp_path / "manifest.json").read_text()
    digits = [i for i, character in enumerate(text) if character.isdecimal()]
    assert len(digits) > 10
    for i in digits:
        changed = "7" if text[i] != "7" else "1"
        (tmp_path / "manifest.json").write_text(text[:i] + changed + text[i + 1 :])
        with pytest.raises(RunFolderError):
            manifest.load(tmp_path)


def test_without_a_manifest_no_stage_is_finished(tmp_path: Path) -> None:
    assert manifest.load(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ('{"format": 3, "stages": {"a"', "Expecting"),
        ("[]", "not a valid manifest"),
        ("{}", "KeyError: 'format'"),
        ('{"format": 1e999, "stages": {}}', "OverflowError"),
        ("[" * 200_000, "nested too deeply"),
        ('{"format": "two", "stages": {}}', "not a valid manifest"),
        ('{"format": 3, "stages": {}}', "the content does not match its checksum"),
        (dump({"format": 3, "stages": {"infer": {"settings": {}}}}), "'infer' lacks counts"),
        (dump({"format": 3, "stages": {"infer": 3}}), "not a valid manifest"),
    ],
)
def test_a_damaged_manifest_is_rejected(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DamagedFileError, match=message) as caught:
        manifest.load(tmp_path)
    assert "Restore the file, or delete it to run all stages again." in str(caught.value)


@pytest.mark.parametrize(("found", "version"), [(1, "an older"), (manifest.FORMAT + 1, "a newer")])
def test_a_run_folder_of_another_format_is_rejected(
    tmp_path: Path, found: int, version: str
) -> None:
    write(tmp_path, format=found, stages={"prepare": {}})
    message = (
        rf"has format {found}, which {version} version of mllm-msr wrote; this version reads "
        rf"format {manifest.FORMAT}\. Start a new run in another folder"
    )
    for read_only in (False, True):
        with pytest.raises(RunFolderError, match=message) as caught:
            RunFolder.open(tmp_path, read_only=read_only)
        assert not isinstance(caught.value, DamagedFileError)
        assert "read this one with the version that wrote it." in str(caught.value)


def test_outputs_are_found_as_tables_and_as_files() -> None:
    stages = {"summarize": entry()}
    table = manifest.require(stages, "summaries")
    assert (table.stage, table.path, table.size) == ("summarize", "summaries.parquet", 7)
    assert manifest.require(stages, "metrics.json").sha256 == "c" * 64
    assert manifest.find(stages, "summ") is None


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("preferences", "Run the stage 'infer' first."),
        ("folds/1/adapter", "Run the stage 'train' first."),
        ("scores/popularity", "Run the stage 'score' first."),
        ("report.html", "Run the stage 'report' first."),
        ("other", "Run the stage that writes it first."),
    ],
)
def test_a_missing_output_names_the_stage_to_run(name: str, fix: str) -> None:
    with pytest.raises(RunFolderError) as caught:
        manifest.require({"summarize": entry()}, name)
    assert str(caught.value) == (
        f"The run folder has no {name!r}. Finished stages: summarize. {fix}"
    )


def test_equal_conditions_are_not_stale() -> None:
    manifest.require_unchanged(Path("R"), "summarize", entry(k=5), conditions(k=5))


def test_every_change_is_listed_with_both_values() -> None:
    new = manifest.Conditions(
        settings={"k": 6, "item_type": "film"},
        inputs={"items": "d" * 64},
        templates={"fusion": "e" * 64},
        model="tiny@2",
    )
    with pytest.raises(StaleStageError) as caught:
        manifest.require_unchanged(Path("R"), "summarize", entry(k=5, old=None), new)
    assert str(caught.value) == (
        "The stage 'summarize' was finished with other conditions: "
        "setting item_type was the default or not used and is now 'film'; "
        "setting k was 5 and is now 6; "
        "setting old was None and is now the default or not used; "
        "input items was aaaaaaaaaaaa... and is now dddddddddddd...; "
        "template fusion was absent and is now eeeeeeeeeeee...; "
        "the model was 'tiny@1' and is now 'tiny@2'. "
        "Restore them, use another run folder, or redo the stage with the new ones: "
        "'mllm-msr summarize --run R --force', with the changed settings."
    )


@pytest.mark.parametrize(
    ("stage", "command"),
    [("train/0", "mllm-msr train"), ("score/sasrec", "mllm-msr compare --models sasrec")],
)
def test_the_command_redoes_one_stage_or_model(stage: str, command: str) -> None:
    with pytest.raises(StaleStageError, match=f"'{command} --run R --force'"):
        manifest.require_unchanged(Path("R"), stage, entry(k=5), conditions(k=6))


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    manifest.save(tmp_path, {"summarize": entry()})
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["format"] == manifest.FORMAT
    assert content["stages"]["summarize"]["outputs"]["metrics.json"]["bytes"] == 8
