"""Tests of whole runs with Ray: equal tables, killed drivers, no second driver."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import RunLockedError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import manifest

pytest.importorskip("ray")

RAY = ["executor.workers=2", "executor.cpus=0.5", "executor.batch=4"]
TABLES = ["summaries", "preferences", "scores/zero_shot"]

# The process kills itself, without cleanup, just before it stores responses for the n-th time.
DRIVER = """
import os, signal, sys
from mllm_msr import cli
from mllm_msr.storage import response_cache

remaining = int(sys.argv.pop(1))
store = response_cache.ResponseCache.put_many

def counted(cache, entries):
    global remaining
    remaining -= 1
    if remaining == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    store(cache, entries)

response_cache.ResponseCache.put_many = counted
cli.main()
"""


def run_driver(command: str, data: Path, folder: Path, *, stores: int = -1) -> int:
    arguments = [command, *worlds.settings(data, *RAY), "--executor", "ray", "--run", str(folder)]
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, str(stores), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode in {0, -signal.SIGKILL}, process.stderr
    return process.returncode


def n_cached(folder: Path) -> int:
    with sqlite3.connect(folder / "cache" / "responses.sqlite") as database:
        n: int = database.execute("SELECT count(*) FROM responses").fetchone()[0]
    return n


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return worlds.write_files(tmp_path / "data", n_users=6)


@pytest.mark.slow
def test_tables_equal_those_of_a_single_process(tmp_path: Path, data: Path) -> None:
    settings = worlds.settings(data, "score.full_users=0", *RAY)
    for executor in ("local", "ray"):
        loaded = load_settings("default", [*settings, f"executor.name={executor}"], environment={})
        with Pipeline.open(tmp_path / executor, loaded) as pipeline:
            pipeline.run_until("score")
    for name in TABLES:
        one, many = (
            pl.read_parquet(tmp_path / executor / f"{name}.parquet")
            for executor in ("local", "ray")
        )
        assert one.equals(many), name
    one, many = (manifest.load(tmp_path / executor) for executor in ("local", "ray"))
    for stage in ("summarize", "infer", "score/zero_shot"):
        # Results and costs do not depend on the executor.
        assert one[stage]["settings"] == many[stage]["settings"]
        assert one[stage]["model"] == many[stage]["model"]
        assert one[stage]["counts"] == many[stage]["counts"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_does_not_repeat_finished_responses(tmp_path: Path, data: Path) -> None:
    with Pipeline.open(
        tmp_path / "one", load_settings("default", worlds.settings(data), environment={})
    ) as pipeline:
        pipeline.run_until("summarize")
        whole = manifest.load(tmp_path / "one")["summarize"]["counts"]["misses"]
    folder = tmp_path / "killed"
    assert run_driver("prepare", data, folder) == 0
    # The first responses to be stored contain no combined summary, however many arrive at once.
    assert run_driver("summarize", data, folder, stores=2) == -signal.SIGKILL
    finished = n_cached(folder)
    assert 0 < finished < whole
    assert "summarize" not in manifest.load(folder)
    assert run_driver("summarize", data, folder) == 0
    assert manifest.load(folder)["summarize"]["counts"]["misses"] == whole - finished
    assert n_cached(folder) == whole
    once, again = (pl.read_parquet(run / "summaries.parquet") for run in (tmp_path / "one", folder))
    assert once.equals(again)


def test_a_second_driver_raises_an_error(tmp_path: Path, data: Path) -> None:
    settings = load_settings(
        "default", worlds.settings(data, *RAY, "executor.name=ray"), environment={}
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_stage("prepare")
        with pytest.raises(RunLockedError, match=r"in use by process \d+"):
            Pipeline.open(tmp_path / "run", settings)
        assert "prepare" in manifest.load(tmp_path / "run")
