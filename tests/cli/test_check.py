"""`check`: shows what is understood of files, without a run folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

import worlds
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.models.small import sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return worlds.write_files(tmp_path / "data")


def arguments(folder: Path) -> list[str]:
    return [
        "dataset=files",
        f"data.path={folder}",
        "data.min_user_interactions=2",
        "data.min_item_interactions=1",
        "data.n_negatives=10",
        "data.folds=3",
    ]


def test_it_prints_what_was_understood(invoke, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("check", *arguments(folder))
    assert done.exit_code == 0, done.output
    subjects = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert {"interactions", "time span", "ids", "known items", "images", "filters"} <= {*subjects}
    assert "1970-01-01" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]  # no run folder


def test_json_has_the_numbers(invoke, folder: Path) -> None:
    report = json.loads(invoke("check", "--json", *arguments(folder), "model.backend=mock").stdout)
    assert report["n_users"] == 12
    assert report["problems"] == []
    assert len(report["histories"]) == 3
    assert any("have no image" in warning for warning in report["warnings"])


def test_ids_that_match_nothing_are_shown_with_all_findings(invoke, folder: Path) -> None:
    items = folder / "items.csv"
    items.write_text(items.read_text().replace("item", "ITEM").replace("ITEM_id", "item_id"))
    done = invoke("check", *arguments(folder))
    assert done.exit_code == 1
    assert "time span" in done.stdout
    assert re.search(r"problem: None of the \d+ item ids", done.stdout)
    assert "in lower case" in done.stdout


def test_data_that_are_too_small_are_a_problem(invoke, folder: Path) -> None:
    done = invoke("check", *arguments(folder), "data.min_user_interactions=50")
    assert done.exit_code == 1
    assert "problem: The k-core is empty" in done.stdout
    done = invoke("check", *arguments(folder), "data.n_negatives=500")
    assert done.exit_code == 1
    assert "filters" in done.stdout
    assert "problem: " in done.stdout


@pytest.mark.parametrize("images", ["missing", "empty", "absent"])
def test_images_may_lack_if_no_model_reads_them(
    images: str, invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pl.read_csv(folder / "items.csv")
    names = {"missing": pl.col("item_id") + ".webp", "empty": pl.lit("")}
    if images in names:
        items.with_columns(image=names[images]).write_csv(folder / "items.csv")
    (folder / "images").rename(folder / "pictures")
    small = json.loads(
        invoke("check", "--json", *arguments(folder), "model.preset=smollm2-135m").stdout
    )
    assert (small["problems"], small["warnings"], small["reads_images"]) == ([], [], False)
    # The model that a run would choose decides.
    monkeypatch.setattr(sources, "missing_packages", list)
    assert json.loads(invoke("check", "--json", *arguments(folder)).stdout) == small
    reading = json.loads(invoke("check", "--json", *arguments(folder), "model.backend=mock").stdout)
    findings = [*reading["problems"], *reading["warnings"]]
    assert ("image paths of the items" in findings[0]) == (images == "missing")
    assert "image" in findings[0]
    correction = [*arguments(folder), "model.backend=mock", "data.image_column=null"]
    assert invoke("check", *correction).exit_code == 0


def test_missing_files_and_wrong_settings_are_errors(fail, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        fail("check", "dataset=files", f"data.path={tmp_path / 'nowhere'}")
    with pytest.raises(SettingsError, match=r"data\.pat"):
        fail("check", "dataset=files", "data.pat=x")


@pytest.mark.parametrize("command", ["check", "demo", "prepare", "run"])
def test_a_path_without_a_dataset_is_an_error(fail, command: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(SettingsError, match=r"'data\.path' of the dataset 'demo'\. It belongs to"):
        fail(command, f"data.path={folder}")
    assert sorted(folder.rglob("*")) == before  # no images of the generated dataset
