"""Addresses of object storage are rejected where a local path is required."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.datasets.files import Files
from mllm_msr.errors import RunFolderError
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.storage.uri import require_local


@pytest.mark.parametrize("path", ["runs/run", "/data", "C:/data", "odd:name", "a/s3://b"])
def test_local_paths_pass(path: str) -> None:
    assert require_local(path) == Path(path)


@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_rejected_with_the_command_to_run(kind: type) -> None:
    with pytest.raises(RunFolderError, match="Run 'mllm-msr pull gs://bucket/run FOLDER' first"):
        require_local(kind("gs://bucket/run"))


def test_run_folders_and_datasets_must_be_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="s3://bucket/run is not a folder on a local disk"):
        RunFolder.open(Path("s3://bucket/run"))
    with pytest.raises(RunFolderError, match="s3://bucket/data is not a folder on a local disk"):
        Files(path=Path("s3://bucket/data")).load()
    assert not list(tmp_path.iterdir())
