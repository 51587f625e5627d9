"""`serve`: passes its options to the service; an error names a missing extra."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.cli import _serve
from mllm_msr.errors import MissingExtraError
from mllm_msr.serving import server


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the service, and record the runs to serve and their options."""
    seen: list[Any] = []

    def serve(run: Path, **options: Any) -> None:
        options.pop("announce")("serving folder on http://127.0.0.1:7")
        seen.append((run, options))

    monkeypatch.setattr(server, "serve", serve)
    return seen


def test_options_are_passed_to_the_service(invoke, served: list[Any]) -> None:
    done = invoke("serve", "--run", "folder", "--port", 0, "serve.update=event")
    assert done.exit_code == 0
    assert "serving folder on http://127.0.0.1:7" in done.stderr
    options = {"host": "127.0.0.1", "port": 0, "overrides": ["serve.update=event"]}
    assert served == [(Path("folder"), options)]


def test_a_missing_package_is_reported_before_the_service_starts(
    fail, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve.require_serving()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"mllm-msr\[serve\]"):
        fail("serve")
    assert served == []


@pytest.mark.parametrize("command", ["serve", "demo --serve"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_normal_end_of_a_service(command: str, signum: signal.Signals) -> None:
    script = (
        "import contextlib, signal, types\n"
        "from mllm_msr.cli import demo, main\n"
        "from mllm_msr.serving import server\n"
        "done = contextlib.nullcontext(types.SimpleNamespace(run_all=lambda: None))\n"
        "demo.open_pipeline = lambda *args, **options: done\n"
        "demo.emit_results = lambda *args, **options: None\n"
        f"server.serve = lambda *args, **options: signal.raise_signal({signum.value})\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 128 + signum
    assert done.stderr == f"mllm-msr: Stopped by {signum.name}.\n"
