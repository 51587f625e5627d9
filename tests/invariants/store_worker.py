"""A process that works in run folders until it is killed, for `test_kill_store.py`.

    python store_worker.py stages FOLDER    stages, one of them redone, and a text
    python store_worker.py responses FOLDER   stores responses for ever, printing each key that
                                            `put_many` has acknowledged
    python store_worker.py deaths FOLDER    does `stages` in FOLDER/1, FOLDER/2, ..., the n-th
                                            until kill -9 at its n-th fsync or rename
    python store_worker.py resume FOLDER    the same again in each of these folders, killed
                                            twice more on the way to its end

Every attempt is a child, forked before Polars has started a thread, which spares its start-up.
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


def die_at(number: int) -> None:
    """Kill this process just before its `number`-th fsync or rename (0: never).

    The disk itself is left in peace: what a killed process has written, the system still has;
    forcing it out matters only when the power fails, and takes most of the time.
    """
    calls = itertools.count(1)
    replace = os.replace

    def count() -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor: int) -> None:
        count()

    def dying_replace(source: Path, target: Path) -> None:
        count()
        replace(source, target)

    os.fsync = dying_fsync
    os.replace = dying_replace


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


def attempt(folder: Path, *, die_at_write: int) -> int:
    """Do `stages` in a child; returns its exit code, negative for the signal that ended it."""
    process = os.fork()
    if process == 0:
        die_at(die_at_write)
        with RunFolder.open(folder) as run:
            stages(run)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def deaths(folder: Path) -> None:
    for number in itertools.count(1):
        if attempt(folder / str(number), die_at_write=number) == 0:
            return


def resume(folder: Path) -> None:
    for run in folder.iterdir():
        codes = [attempt(run, die_at_write=number) for number in (5, 11, 0)]
        if codes != [-signal.SIGKILL, -signal.SIGKILL, 0]:
            raise SystemExit(f"{run} ended with {codes}")


if __name__ == "__main__":
    kind, target = sys.argv[1], Path(sys.argv[2])
    if kind in ("deaths", "resume"):
        {"deaths": deaths, "resume": resume}[kind](target)
    else:
        with RunFolder.open(target) as opened:
            {"stages": stages, "responses": responses}[kind](opened)
