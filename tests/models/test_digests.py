"""Tests of the digests that identify checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.errors import BackendError
from mllm_msr.models.digests import file_digest, folder_digest


def test_digests_depend_on_content_and_names_but_not_on_the_path(tmp_path: Path) -> None:
    digests = []
    for name, content in (("a", "{}"), ("b", "{}"), ("c", "[]")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(content)
        (folder / "notes.md").write_text(name)
        digests.append((folder_digest(folder), file_digest(folder / "config.json")))
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="There is no file"):
        file_digest(tmp_path / "projector.safetensors")
