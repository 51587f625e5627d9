"""Process that writes to run folders until it is killed, for `test_kill_store.py`.

    python store_worker.py stages FOLDER      Run some stages, one of them twice, and write a text.
    python store_worker.py responses FOLDER   Store responses until killed, and print each key
                                              after `put_many` returns.
    python store_worker.py kill FOLDER        Run `stages` in FOLDER/1, FOLDER/2, ...; kill run n
                                              at its n-th fsync or rename. Stop after the first
                                              run that finishes.
    python store_worker.py resume FOLDER      Run `stages` again in each of these folders: kill it
                                              twice more, then let it finish.

Each attempt is a child process, which is forked to avoid the start-up time of Python. This happens
before Polars starts its threads.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

import polars as pl

from mllm_msr.storage.run_folder import RunFolder

ROWS = 2_000


def kill_at(number: int) -> None:
    """Kill this process just before its `number`-th fsync or rename (0: never).

    fsync is only counted. The operating system keeps what a killed process has written; flushing
    to the disk is slow and only matters for power failures.
    """
    calls = itertools.count(1)
    replace = os.replace

    def count() -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def killing_fsync(descriptor: int) -> None:
        count()

    def killing_replace(source: Path, target: Path) -> None:
        count()
        replace(source, target)

    os.fsync = killing_fsync
    os.replace = killing_replace


def stages(run: RunFolder) -> None:
    run.write_text("config.yaml", "k: 5\n" * 100)
    first = pl.DataFrame({"item_id": [str(number) for number in range(ROWS)]})
    with run.stage("prepare", settings={"k": 5}) as stage:
        if not stage.finished:
            stage.write("items", first)
    with run.stage("summarize", inputs=["items"]) as stage:
        if not stage.finished:
            stage.write("summaries", run.read("items").with_columns(summary="item_id"))
            stage.write_text("notes.txt", "words\n" * 500)
            stage.count(items=ROWS)
    for settings, frame in (({"round": 1}, first), ({"round": 2}, first.reverse())):
        with run.stage("change", settings=settings, force=True) as stage:
            stage.write("changed", frame)


def responses(run: RunFolder) -> None:
    for number in itertools.count():
        run.cache.put_many({f"{number}": f'"response {number}"'})
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


def attempt(folder: Path, *, kill_at_write: int) -> int:
    """Run `stages` in a child process; return its exit code, or the negative signal number."""
    process = os.fork()
    if process == 0:
        kill_at(kill_at_write)
        with RunFolder.open(folder) as run:
            stages(run)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill(folder: Path) -> None:
    for number in itertools.count(1):
        if attempt(folder / str(number), kill_at_write=number) == 0:
            return


def resume(folder: Path) -> None:
    for run in folder.iterdir():
        codes = [attempt(run, kill_at_write=number) for number in (5, 11, 0)]
        if codes != [-signal.SIGKILL, -signal.SIGKILL, 0]:
            raise SystemExit(f"{run} ended with {codes}")


if __name__ == "__main__":
    kind, target = sys.argv[1], Path(sys.argv[2])
    if kind in ("kill", "resume"):
        {"kill": kill, "resume": resume}[kind](target)
    else:
        with RunFolder.open(target) as opened:
            {"stages": stages, "responses": responses}[kind](opened)
