"""A process that is killed at any point loses no finished output and no stored response."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.storage import atomic
from mllm_msr.storage.run_folder import RunFolder

WORKER = Path(__file__).with_name("store_worker.py")
OUTPUTS = ("items", "summaries", "notes.txt", "changed")


def start(kind: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), kind, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(kind: str, folder: Path) -> None:
    with start(kind, folder) as process:
        assert process.wait() == 0


def fingerprints(folder: Path) -> dict[str, str]:
    with RunFolder.open(folder) as run:
        return {name: atomic.content_hash(run.verified(name))[0] for name in OUTPUTS}


def test_a_process_killed_at_any_write_and_resumed_gives_the_same_result(tmp_path: Path) -> None:
    finish("stages", tmp_path / "whole")
    uninterrupted = fingerprints(tmp_path / "whole")
    finish("kill", tmp_path / "killed")
    folders = list((tmp_path / "killed").iterdir())
    assert len(folders) > 30
    for folder in folders:
        check_consistency(folder)
    finish("resume", tmp_path / "killed")
    for folder in folders:
        assert fingerprints(folder) == uninterrupted


def check_consistency(folder: Path) -> None:
    """Check that the outputs in the manifest are intact and no file is incomplete."""
    with RunFolder.open(folder) as run:
        for name in OUTPUTS:
            if run.has(name):
                run.verified(name)
        for path in folder.glob("*.parquet"):
            assert pl.read_parquet(path).height == 2_000
        assert not list(folder.rglob("*.mllm-msr-tmp"))
        config = folder / "config.yaml"
        assert not config.exists() or config.stat().st_size == 500


def test_no_stored_response_is_lost_when_a_process_is_killed(tmp_path: Path) -> None:
    rng = random.Random(11)
    acknowledged: set[str] = set()
    for _ in range(6):
        process = start("responses", tmp_path)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        lines += process.stdout.readlines()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
        with RunFolder.open(tmp_path) as run:
            found = run.cache.get_many(acknowledged)
            assert found == {key: f'"response {key}"' for key in acknowledged}
    assert len(acknowledged) > 5
    assert not list(tmp_path.rglob("*.damaged-*"))


def test_a_full_disk_loses_no_finished_output(tmp_path: Path) -> None:
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small_disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs privileges")
    try:
        fill(small_disk / "run")
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


def store_until_full(run: RunFolder, stored: dict[str, str]) -> None:
    for number in itertools.count():
        run.cache.put_many({str(number): "x" * 10_000})
        stored[str(number)] = "x" * 10_000


def fill(folder: Path) -> None:
    noise = random.Random(0)
    large = pl.DataFrame({"noise": [noise.random() for _ in range(200_000)]})
    with RunFolder.open(folder) as run:
        with run.stage("prepare") as stage:
            stage.write("items", large.head(100))
        message = r"Cannot write .*large\.parquet: .* \d\.\d MiB of free space"
        for frame in (large, large.lazy()):
            with pytest.raises(RunFolderError, match=message), run.stage("more") as stage:
                stage.write("large", frame)
        stored: dict[str, str] = {}
        with pytest.raises(RunFolderError, match=r"Cannot write .*responses\.sqlite: .*free space"):
            store_until_full(run, stored)
        assert len(stored) > 5
        assert run.cache.get_many(stored) == stored
    with RunFolder.open(folder) as run:
        assert run.cache.get_many(stored) == stored
        assert run.read("items").equals(large.head(100))
        assert list(run.stages) == ["prepare"]
        assert not list(folder.glob("*large*"))
