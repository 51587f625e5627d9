"""Writing files so that a name holds either the old content or the new, whatever happens.

Content goes to a temporary file in the same folder, is forced to the disk and renamed; a
process killed in between leaves only a temporary file, which `remove_temporaries` finds by its
ending. Errors of the system become sentences. The run folder and the downloads build on this.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mllm_msr.errors import RunFolderError

_ENDING: Final = ".mllm-msr-tmp"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Replace a file at once, or not at all.

    Args:
        path: Final name; missing folders above it are made.

    Yields:
        Temporary path in the same folder for the new content. When the block ends normally it
        is forced to the disk and renamed; after an exception it is removed and `path` is as
        before.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_ENDING}")
    with wrap_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file at once, or not at all.

    Raises:
        RunFolderError: As for `replace_file`.
    """
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Force a file, or everything below a folder, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    sync(path)


def content_hash(path: Path) -> tuple[str, int]:
    """Hexadecimal SHA-256 and size in bytes of a file, or of all files below a folder.

    A folder's hash covers the relative names and contents of its files, in the names' order.
    """
    if path.is_dir():
        total = 0
        digest = hashlib.sha256()
        for file in sorted(child for child in path.rglob("*") if child.is_file()):
            sha256, size = content_hash(file)
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256}\n".encode())
            total += size
        return digest.hexdigest(), total
    with path.open("rb") as file_object:
        sha256 = hashlib.file_digest(file_object, "sha256").hexdigest()
    return sha256, path.stat().st_size


def remove_temporaries(folder: Path) -> int:
    """Remove what killed processes left below a folder; returns how many files.

    Only for a folder that no other process writes to.
    """
    stale = list(folder.rglob(f".*{_ENDING}"))
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


@contextlib.contextmanager
def wrap_os_errors(path: Path) -> Iterator[None]:
    """Turn an error of the system while writing `path` into one sentence.

    Raises:
        RunFolderError: The disk is full (with the room that is left) or the path cannot be
            written. Exceptions that do not come from the system pass unchanged.
    """
    try:
        yield
    except Exception as error:
        code = _system_code(error)
        if code is None:
            raise
        raise explain(path, code) from error


def explain(path: Path, code: int) -> RunFolderError:
    """The sentence for a system's error while writing `path`.

    Args:
        path: What was to be written.
        code: The error's number, as in `errno`.
    """
    if code not in _FULL:
        return RunFolderError(
            needed="a path that can be written",
            received=f"{path} ({os.strerror(code)})",
            remedy="check the folder and its permissions",
        )
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return RunFolderError(
        needed=f"room on the disk for {path}",
        received=f"{free / 2**20:,.1f} MiB free in {folder} ({os.strerror(code)})",
        remedy="make room and run the same command again, finished work is kept",
    )


def _system_code(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # Polars hands the system's errors on as text only.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
