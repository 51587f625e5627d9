"""Exclusive lock of one process, with an error that names the process that holds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, final

import filelock

from mllm_msr.errors import RunLockedError
from mllm_msr.storage import layout
from mllm_msr.storage.atomic import PRIVATE_FILE, make_private_folder, wrap_os_errors

# Suffix of the file with the id of the process that holds a lock.
_OWNER: Final = ".pid"


@final
class ProcessLock:
    """A lock file that one process holds at a time.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        path: The lock file. Its folder is created if it does not exist. A second file with the
            suffix ".pid" contains the process id of the holder.
        subject: What the lock protects, for the error message ("The run folder runs/demo").
        fix: What the user can do if another process holds the lock, as a sentence.
    """

    def __init__(self, path: Path, *, subject: str, fix: str) -> None:
        self._path = path
        # A separate file, since some versions of filelock truncate the lock file on every attempt.
        self._owner = path.with_name(f"{path.name}{_OWNER}")
        self._subject = subject
        self._fix = fix
        # The process holds the lock, not the thread: another thread may release it.
        self._lock = filelock.FileLock(path, timeout=0, mode=PRIVATE_FILE, thread_local=False)

    @property
    def is_held(self) -> bool:
        """Return whether this object holds the lock."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Acquire the lock without waiting.

        Raises:
            RunLockedError: Another process holds the lock, or another object of this process.
            RunFolderError: The lock file cannot be written.
        """
        with wrap_os_errors(self._path):
            make_private_folder(self._path.parent)
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                owner = self._describe_owner()
                fix = self._fix
                if owner == f"process {os.getpid()}":
                    owner, fix = f"{owner}, which is this one", "Close it first with close()."
                raise RunLockedError(f"{self._subject} is in use by {owner}. {fix}") from error
            try:
                self._owner.touch(PRIVATE_FILE)
                self._owner.write_text(str(os.getpid()), encoding="ascii")
            except BaseException:
                self._lock.release()
                raise

    def release(self) -> None:
        """Release the lock. Calling it twice is harmless."""
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
            self._lock.release()

    def _describe_owner(self) -> str:
        try:
            return f"process {int(self._owner.read_text(encoding='ascii'))}"
        except (OSError, ValueError):
            return "an unknown process"


def running_process(folder: Path) -> int | None:
    """Return the id of the process of this machine that works in a run folder, or None.

    Args:
        folder: The run folder, which is only read.
    """
    try:
        process = int((folder / f"{layout.LOCK}{_OWNER}").read_text(encoding="ascii"))
        os.kill(process, 0)  # only checks that the process exists
    except PermissionError:
        return process  # of another user
    except (OSError, ValueError):
        return None
    return process


def run_lock(folder: Path) -> ProcessLock:
    """Return the lock that a process holds while it writes to a run folder."""
    return ProcessLock(
        folder / layout.LOCK,
        subject=f"The run folder {folder}",
        fix="Wait until it ends, stop it, or use another run folder.",
    )
