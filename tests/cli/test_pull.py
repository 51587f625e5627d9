"""`pull`: copies a folder from object storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.errors import DataError


def test_it_copies_all_files(invoke, tmp_path: Path) -> None:
    (tmp_path / "storage" / "data").mkdir(parents=True)
    (tmp_path / "storage" / "data" / "items.csv").write_text("item_id\n")
    target = tmp_path / "local"
    done = invoke("pull", (tmp_path / "storage").as_uri(), target, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"folder": str(target), "files": 1}
    assert (target / "data" / "items.csv").read_text() == "item_id\n"


def test_an_empty_address_is_an_error(fail, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fail("pull", (tmp_path / "nowhere").as_uri(), tmp_path / "local")
