"""Addresses of object storage where a folder of this machine is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.datasets.files import Files
from mllm_msr.errors import RunFolderError
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.storage.uri import require_local


@pytest.mark.parametrize("path", ["runs/run", "/data", "C:/data", "odd:name", "a/s3://b"])
def test_paths_of_this_machine_pass(path: str) -> None:
    assert require_local(path) == Path(path)


@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_refused_with_the_command_that_helps(kind: type) -> None:
    with pytest.raises(RunFolderError, match="run 'mllm-msr pull gs://bucket/run FOLDER' before"):
        require_local(kind("gs://bucket/run"))


def test_runs_and_data_sets_are_asked_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="received s3://bucket/run"):
        RunFolder.open(Path("s3://bucket/run"))
    with pytest.raises(RunFolderError, match="received s3://bucket/data"):
        Files(path=Path("s3://bucket/data")).load()
    assert not list(tmp_path.iterdir())
