"""What the manifest claims, and how it says what has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.errors import DamagedFileError, RunFolderError, StaleStageError
from mllm_msr.storage import manifest


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


def test_what_is_saved_is_loaded_in_the_same_order(tmp_path: Path) -> None:
    stages = {"summarize": entry(k=5), "again": entry(name="größer")}
    manifest.save(tmp_path, stages)
    assert list(manifest.load(tmp_path).items()) == list(stages.items())
    assert "größer" in (tmp_path / "manifest.json").read_text(encoding="utf-8")


def test_without_a_manifest_nothing_is_finished(tmp_path: Path) -> None:
    assert manifest.load(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ('{"format": 1, "stages": {"a"', "Expecting"),
        ("[]", "which is not one"),
        ('{"format": 2, "stages": {}}', "its format is 2"),
        ('{"format": 1, "stages": {"infer": {"settings": {}}}}', "stage 'infer' lacks counts"),
        ('{"format": 1, "stages": {"infer": 3}}', "which is not one"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DamagedFileError, match=message):
        manifest.load(tmp_path)


def test_outputs_are_found_as_tables_and_as_files() -> None:
    stages = {"summarize": entry()}
    table = manifest.require(stages, "summaries")
    assert (table.stage, table.path, table.size) == ("summarize", "summaries.parquet", 7)
    assert manifest.require(stages, "metrics.json").sha256 == "c" * 64
    assert manifest.find(stages, "summ") is None


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("preferences", "run the stage 'infer' first"),
        ("scores/popularity", "run the stage 'score' first"),
        ("report.html", "run the stage 'report' first"),
        ("other", "run the stage that makes it"),
    ],
)
def test_a_missing_output_names_the_stage_to_run(name: str, remedy: str) -> None:
    with pytest.raises(RunFolderError, match=f"{name}.* summarize finished: {remedy}"):
        manifest.require({"summarize": entry()}, name)


def test_equal_conditions_are_not_stale() -> None:
    manifest.refuse_if_stale("summarize", entry(k=5), conditions(k=5))


def test_every_change_is_named_with_both_values() -> None:
    new = manifest.Conditions(
        settings={"k": 6, "item_type": "film"},
        inputs={"items": "d" * 64},
        templates={"fusion": "e" * 64},
        model="tiny@2",
    )
    with pytest.raises(StaleStageError) as caught:
        manifest.refuse_if_stale("summarize", entry(k=5, old=None), new)
    assert caught.value.received == (
        "other conditions (setting item_type was absent, is 'film'; setting k was 5, is 6; "
        "setting old was None, is absent; input items was aaaaaaaaaaaa..., is dddddddddddd...; "
        "template fusion was absent, is eeeeeeeeeeee...; model was 'tiny@1', is 'tiny@2')"
    )
    assert "--force" in caught.value.remedy


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    manifest.save(tmp_path, {"summarize": entry()})
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["stages"]["summarize"]["outputs"]["metrics.json"]["bytes"] == 8
