"""A run that is killed in every stage and resumed gives the same tables as an uninterrupted run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl

import worlds

# Runs a command and kills itself just before the n-th rename or the n-th answer.
DRIVER = """
import os, signal, sys
from mllm_msr import cli
from mllm_msr.backends import mock

remaining = {"renames": int(sys.argv.pop(1)), "answers": int(sys.argv.pop(1))}

def limit(name, function):
    def wrapper(*args, **kwargs):
        remaining[name] -= 1
        if remaining[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

os.replace = limit("renames", os.replace)
mock.MockBackend._answer = limit("answers", mock.MockBackend._answer)
cli.main()
"""


def start(folder: Path, data: Path, *, renames: int = -1, answers: int = -1) -> int:
    command = [sys.executable, "-c", DRIVER, str(renames), str(answers)]
    command += ["run", *worlds.settings(data), "report.case_studies=0", "--run", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    return {
        str(path.relative_to(folder)): pl.read_parquet(path)
        for path in sorted(folder.rglob("*.parquet"))
    }


def test_a_run_killed_many_times_gives_the_same_tables(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data", n_users=20)
    assert start(tmp_path / "whole", data) == 0
    codes = [start(tmp_path / "killed", data, renames=1)]
    codes += [start(tmp_path / "killed", data, answers=answers) for answers in (1, 30, 10)]
    # An interrupted stage starts again, so the limit exceeds the number of renames in any stage.
    while codes[-1] != 0:
        assert codes[-1] == -signal.SIGKILL
        assert len(codes) < 20, "a killed run makes no progress"
        codes.append(start(tmp_path / "killed", data, renames=8))
    assert codes.count(-signal.SIGKILL) >= 5
    whole, killed = tables(tmp_path / "whole"), tables(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name, frame in whole.items():
        assert frame.equals(killed[name]), name
    for name in ("metrics.json", "details.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
    assert not list((tmp_path / "killed").rglob("*.tmp*"))
