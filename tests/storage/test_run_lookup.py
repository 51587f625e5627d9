"""Lookup of run folders: errors name similar runs, and nothing is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.storage.run_lookup import is_run, require_run


def make_run(folder: Path, *, file: str = "manifest.json") -> None:
    folder.mkdir(parents=True)
    (folder / file).write_text("{}")


@pytest.mark.parametrize("file", ["manifest.json", "config.yaml"])
def test_a_folder_with_a_manifest_or_settings_is_a_run(tmp_path: Path, file: str) -> None:
    make_run(tmp_path / "shop", file=file)
    assert is_run(tmp_path / "shop")
    assert require_run(tmp_path / "shop") == tmp_path / "shop"


def test_similar_runs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/shop"))
    make_run(Path("runs/demo"))
    Path("runs/shap").mkdir()  # not a run
    with pytest.raises(RunFolderError) as caught:
        require_run(Path("runs/shopp"))
    assert str(caught.value) == (
        "There is no run folder at runs/shopp. Did you mean runs/shop? "
        "'mllm-msr run' and 'mllm-msr demo' create runs."
    )
    with pytest.raises(RunFolderError, match="The folder runs/shap does not contain a run"):
        require_run("runs/shap")


def test_nothing_is_created(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run folder at .*Check the path\. "):
        require_run(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
