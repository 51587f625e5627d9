"""Atomic writes: a path holds either the old content or the new one, even after a crash.

New content goes to a temporary file in the same folder, is flushed to the disk and then renamed.
A process that is killed in between leaves only a temporary file, which `remove_temporary_files`
deletes later. Errors of the operating system become a `RunFolderError`. Files and folders that this
module creates are private: only their owner can read them.
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

# Permissions of files and folders that may contain histories and preferences of users.
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700

TEMPORARY_SUFFIX: Final = ".mllm-msr-tmp"
_TOO_MANY_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_RAISE_LIMIT: Final = "Raise the limit with 'ulimit -n 4096' and run the same command again."
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Replace a file atomically with what the `with` block writes.

    Args:
        path: File to create or replace; missing parent folders are created.

    Yields:
        A temporary path in the same folder for the new content. If the block succeeds, the
        temporary file is flushed to the disk and renamed to `path`. If it raises, the temporary
        file is removed and `path` is unchanged.

    Raises:
        RunFolderError: The disk is full or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    with wrap_os_errors(path):
        make_private_folder(path.parent)
        try:
            yield temporary
            temporary.chmod(PRIVATE_FILE)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Create a file with the content of another one, which must never change.

    Args:
        source: The other file.
        path: File to create, a hard link if the file system allows it. An existing file is kept if
            it is the same file, and replaced otherwise.

    Raises:
        RunFolderError: See `replace_file`.
    """
    with contextlib.suppress(OSError):
        if path.samefile(source):
            return
    with replace_file(path) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file atomically.

    Raises:
        RunFolderError: See `replace_file`.
    """
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents so that only their owner can read them.

    An existing folder keeps its permissions, so that a user can share it.
    """
    missing = [path, *path.parents]
    for folder in reversed(missing[: next(i for i, each in enumerate(missing) if each.exists())]):
        folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def create_private_file(path: Path) -> None:
    """Create an empty file that only its owner can read, unless it exists.

    SQLite gives the files next to a database the permissions of the database.
    """
    make_private_folder(path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, PRIVATE_FILE))


def sync(path: Path) -> None:
    """Flush the content of a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush a file, or a folder and everything below it, to the disk, and make it private."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)
    sync(path)


def content_hash(path: Path) -> tuple[str, int]:
    """Hash a file, or all files below a folder.

    The hash of a folder covers the relative paths and the contents of its files, in the order of
    the paths.

    Returns:
        The hexadecimal SHA-256 and the size in bytes.
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


def remove_temporary_files(folder: Path) -> int:
    """Remove the temporary files that killed processes left below a folder.

    Call this only while no other process writes to the folder.

    Returns:
        The number of files removed.
    """
    stale = list(folder.rglob(f".*{TEMPORARY_SUFFIX}"))
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


@contextlib.contextmanager
def wrap_os_errors(path: Path) -> Iterator[None]:
    """Convert errors of the operating system in the `with` block to a `RunFolderError`.

    Args:
        path: The file or folder that the block writes.

    Raises:
        RunFolderError: The disk is full or the path is not writable. Other exceptions pass
            through unchanged.
    """
    try:
        yield
    except Exception as error:
        code = _system_code(error)
        if code is None:
            raise
        raise write_error(path, code) from error


def write_error(path: Path, code: int) -> RunFolderError:
    """Return the error for a path that could not be written.

    Args:
        path: The file or folder.
        code: Number of the operating system's error, as in `errno`.
    """
    problem = f"Cannot write {path}: {os.strerror(code)}."
    if code in _TOO_MANY_FILES:
        return RunFolderError(f"{problem} {_RAISE_LIMIT}")
    if code not in _NO_SPACE:
        return RunFolderError(f"{problem} Check the folder and its permissions.")
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return RunFolderError(
        f"{problem} {folder} has {free / 2**20:,.1f} MiB of free space. Free some space and run "
        "the same command again; finished work is kept."
    )


def describe_system_error(error: BaseException) -> str | None:
    """Return a message for an error of the operating system, or None for other errors.

    Args:
        error: Any exception; its causes count as well.
    """
    cause: BaseException | None = error
    while cause is not None:
        code = _system_code(cause)
        if code is not None:
            break
        cause = cause.__cause__ or cause.__context__
    else:
        return None
    path = getattr(cause, "filename", None)
    problem = f"{f'Cannot use {path}: ' if path else ''}{os.strerror(code)}."
    if code in _TOO_MANY_FILES:
        return f"{problem} {_RAISE_LIMIT}"
    if code in _NO_SPACE:
        return f"{problem} Free some space and run the same command again; finished work is kept."
    return f"{problem} Check the path and its permissions."


def _system_code(error: BaseException) -> int | None:
    """Return the `errno` of an error, or None if it is not of the operating system."""
    if isinstance(error, OSError):
        return error.errno
    # Polars and SafeTensors report errors of the operating system only as text, and so does the
    # loader of shared libraries.
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found[1])
    texts = {os.strerror(code): code for code in (*_NO_SPACE, *_TOO_MANY_FILES)}
    return next((code for text, code in texts.items() if text in str(error)), None)
