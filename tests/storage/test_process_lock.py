"""Process lock: one holder at a time, named in the error, and released when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError, RunLockedError
from mllm_msr.storage.process_lock import ProcessLock, run_lock, running_process


def make_lock(folder: Path) -> ProcessLock:
    return ProcessLock(folder / "run" / ".lock", subject="The thing", fix="Stop it.")


def test_a_lock_is_acquired_and_released(tmp_path: Path) -> None:
    lock = make_lock(tmp_path)
    assert not lock.is_held
    lock.acquire()
    assert lock.is_held
    assert (tmp_path / "run" / ".lock.pid").read_text() == str(os.getpid())
    lock.release()
    lock.release()
    assert not lock.is_held
    assert not (tmp_path / "run" / ".lock.pid").exists()


def test_the_error_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from mllm_msr.storage.process_lock import ProcessLock\n"
        "lock = ProcessLock(Path(sys.argv[1]), subject='', fix='')\n"
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = rf"^The thing is in use by process {holder.pid}\. Stop it\.$"
        for _ in range(2):  # a failed attempt must not overwrite the process id
            with pytest.raises(RunLockedError, match=message):
                make_lock(tmp_path).acquire()
        holder.kill()
        holder.wait()
    lock = make_lock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_holder_without_a_process_id_is_unknown(tmp_path: Path) -> None:
    lock = make_lock(tmp_path)
    lock.acquire()
    (tmp_path / "run" / ".lock.pid").write_text("?")
    with pytest.raises(RunLockedError, match="in use by an unknown process"):
        make_lock(tmp_path).acquire()
    lock.release()


def test_a_path_that_cannot_be_written_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match=r"Cannot write .*\.lock"):
        make_lock(tmp_path).acquire()


def test_the_process_that_works_in_a_run_is_found_until_it_ends(tmp_path: Path) -> None:
    assert running_process(tmp_path) is None
    lock = run_lock(tmp_path)
    lock.acquire()
    assert running_process(tmp_path) == os.getpid()
    lock.release()
    assert running_process(tmp_path) is None


def test_a_process_that_was_killed_is_not_found(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    (tmp_path / ".lock.pid").write_text(str(process.pid))
    assert running_process(tmp_path) is None
