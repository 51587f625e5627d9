"""`push`: copies a folder to object storage."""

from __future__ import annotations

import json
from pathlib import Path


def test_it_copies_all_files(invoke, tmp_path: Path) -> None:
    (tmp_path / "run" / "scores").mkdir(parents=True)
    (tmp_path / "run" / "scores" / "a.txt").write_text("1")
    address = (tmp_path / "storage").as_uri()
    done = invoke("push", tmp_path / "run", address, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"address": address, "files": 1}
    assert (tmp_path / "storage" / "scores" / "a.txt").read_text() == "1"
