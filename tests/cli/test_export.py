"""`export`: writes the folder, uploads it if asked, and prints what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.errors import UsageError
from mllm_msr.pipeline import adapter_export
from mllm_msr.pipeline.adapter_export import AdapterExport


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []

    def export(run: Path, folder: Path, **options: Any) -> AdapterExport:
        seen.append((run, folder, options))
        return AdapterExport(folder, "owner/base", ("README.md",))

    def push(folder: Path, repository: str, **options: Any) -> str:
        seen.append((folder, repository, options))
        return "https://hub/commit"

    monkeypatch.setattr(adapter_export, "export_adapter", export)
    monkeypatch.setattr(adapter_export, "push_adapter", push)
    return seen


def test_folder_is_written_and_not_uploaded(invoke, calls: list[Any]) -> None:
    done = invoke("export", "--run", "r", "--adapter", "out", "--fold", 1)
    assert done.exit_code == 0
    assert "Wrote 1 files to out. Read README.md" in done.stdout
    assert calls == [(Path("r"), Path("out"), {"fold": 1})]


def test_folder_is_uploaded(invoke, calls: list[Any]) -> None:
    done = invoke("export", "--adapter", "out", "--push", "owner/name", "--public", "--json")
    assert json.loads(done.stdout) == {
        "folder": "out",
        "base_model": "owner/base",
        "files": ["README.md"],
        "url": "https://hub/commit",
    }
    assert calls[1] == (Path("out"), "owner/name", {"private": False})


def test_run_without_an_adapter_is_an_error(fail, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no LoRA adapter"):
        fail("export", "--run", finished, "--adapter", tmp_path / "out")
