"""Whole runs over Ray: the tables of one process, whatever dies, and never two drivers."""

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

# The process ends itself, without any clean-up, just before it stores responses for the n-th time.
DRIVER = """
import os, signal, sys
from mllm_msr import cli
from mllm_msr.storage import response_cache

left = int(sys.argv.pop(1))
store = response_cache.ResponseCache.put_many

def counted(cache, entries):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    store(cache, entries)

response_cache.ResponseCache.put_many = counted
cli.main()
"""


def drive(command: str, data: Path, folder: Path, *, stores: int = -1) -> int:
    arguments = [command, *worlds.settings(data, *RAY), "--executor", "ray", "--run", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(stores), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode


def kept(folder: Path) -> int:
    with sqlite3.connect(folder / "cache" / "responses.sqlite") as database:
        n: int = database.execute("SELECT count(*) FROM responses").fetchone()[0]
    return n


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return worlds.write_files(tmp_path / "data", n_users=6)


@pytest.mark.slow
def test_every_stage_gives_the_tables_of_one_process(tmp_path: Path, data: Path) -> None:
    settings = worlds.settings(data, "score.full_users=0", *RAY)
    for executor in ("local", "ray"):
        chosen = load_settings("default", [*settings, f"executor.name={executor}"], environment={})
        with Pipeline.open(tmp_path / executor, chosen) as pipeline:
            pipeline.run_until("score")
    for name in TABLES:
        one, many = (
            pl.read_parquet(tmp_path / executor / f"{name}.parquet")
            for executor in ("local", "ray")
        )
        assert one.equals(many), name
    one, many = (manifest.load(tmp_path / executor) for executor in ("local", "ray"))
    for stage in ("summarize", "infer", "score/zero_shot"):
        # Where it was computed is no condition of the result, and costs are the same.
        assert one[stage]["settings"] == many[stage]["settings"]
        assert one[stage]["model"] == many[stage]["model"]
        assert one[stage]["counts"] == many[stage]["counts"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_asks_no_finished_response_again(tmp_path: Path, data: Path) -> None:
    with Pipeline.open(
        tmp_path / "one", load_settings("default", worlds.settings(data), environment={})
    ) as pipeline:
        pipeline.run_until("summarize")
        whole = manifest.load(tmp_path / "one")["summarize"]["counts"]["misses"]
    folder = tmp_path / "killed"
    assert drive("prepare", data, folder) == 0
    # The first responses to be stored hold no fused summary, however many come at once.
    assert drive("summarize", data, folder, stores=2) == -signal.SIGKILL
    finished = kept(folder)
    assert 0 < finished < whole
    assert "summarize" not in manifest.load(folder)
    assert drive("summarize", data, folder) == 0
    assert manifest.load(folder)["summarize"]["counts"]["misses"] == whole - finished
    assert kept(folder) == whole
    once, again = (pl.read_parquet(run / "summaries.parquet") for run in (tmp_path / "one", folder))
    assert once.equals(again)


def test_a_second_driver_is_refused(tmp_path: Path, data: Path) -> None:
    settings = load_settings(
        "default", worlds.settings(data, *RAY, "executor.name=ray"), environment={}
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_stage("prepare")
        second = Pipeline.open(tmp_path / "run", settings)
        with pytest.raises(RunLockedError, match=r"in use by process \d+"):
            second.__enter__()
        assert "prepare" in manifest.load(tmp_path / "run")
