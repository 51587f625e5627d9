"""`mcp`: passes its options to the server; an error names a missing extra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.errors import MissingExtraError, RunFolderError
from mllm_msr.serving import mcp_server


def test_options_are_passed_to_the_server(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(mcp_server, "serve_stdio", lambda run, **given: seen.append((run, given)))
    done = invoke("mcp", "--run", "folder", "serve.update=event")
    assert (done.exit_code, done.stdout) == (0, "")
    assert seen == [(Path("folder"), {"overrides": ["serve.update=event"]})]


def test_a_missing_package_and_a_missing_run_are_reported(
    fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunFolderError, match="absent"):
        fail("mcp", "--run", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingExtraError, match=r"mllm-msr\[mcp\]"):
        fail("mcp")
