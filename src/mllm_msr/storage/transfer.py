"""Copying folders from and to object storage (`mllm-msr pull` and `mllm-msr push`).

A run folder is locked while it is copied. The manifest is deleted first and copied last, so that
an interrupted copy contains no finished stages, and a pulled run resumes where it stopped. The
storage is accessed through Arrow's file systems.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from mllm_msr.errors import DataError, UsageError, first_line
from mllm_msr.storage import atomic
from mllm_msr.storage.layout import DOWNLOADS, MANIFEST, RESPONSE_CACHE
from mllm_msr.storage.process_lock import run_lock
from mllm_msr.storage.response_cache import copy_responses
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.storage.run_lookup import is_run


def pull(address: str, folder: Path) -> int:
    """Copy all files below an address into a local folder.

    Args:
        address: "s3://bucket/run" or another address that Arrow supports.
        folder: Created if it does not exist. Files of the same names are replaced.

    Returns:
        The number of files copied.

    Raises:
        DataError: There are no files, they cannot be read, or a name leads outside the folder.
        UsageError: Arrow does not support the kind of storage.
        RunFolderError: The disk is full or the folder is not writable.
        RunLockedError: Another process has the run folder open for writing.
    """
    storage, root = _open_storage(address)
    with _wrap_storage_errors(address):
        listed = storage.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    files: dict[str, str] = {}
    for found in listed:
        if found.is_file:
            name = found.path.removeprefix(root).lstrip("/")
            if ".." in PurePosixPath(name).parts:
                raise DataError(
                    f"The object {name!r} below {address} would be written outside the folder. "
                    "Delete it, or copy the other objects by hand."
                )
            files[name] = found.path
    if not files:
        raise DataError(f"There are no files below {address}. Check the address.")
    with contextlib.ExitStack() as stack:
        if MANIFEST in files or is_run(folder):
            lock = run_lock(folder.absolute())
            lock.acquire()
            stack.callback(lock.release)
        with atomic.wrap_os_errors(folder / MANIFEST):
            (folder / MANIFEST).unlink(missing_ok=True)
        for name in _manifest_last(files):
            _pull_file(storage, files[name], folder / name, address)
    return len(files)


def _pull_file(storage: Any, source: str, path: Path, address: str) -> None:
    with atomic.replace_file(path) as temporary, _wrap_storage_errors(address):
        if path.suffix == ".sqlite":
            # The log of the replaced database would damage the new one.
            for log in ("-wal", "-shm"):
                path.with_name(f"{path.name}{log}").unlink(missing_ok=True)
        fs.copy_files(
            source,
            str(temporary),
            source_filesystem=storage,
            destination_filesystem=fs.LocalFileSystem(),
        )


def push_folder(folder: Path, address: str) -> int:
    """Copy a run folder, or any other folder, to object storage.

    Args:
        folder: A local folder. Files and folders whose names begin with a dot are not copied.
        address: "s3://bucket/run" or another address that Arrow supports.

    Returns:
        The number of files copied.

    Raises:
        DataError: The folder does not exist, the address is not writable, or the run folder
            contains a link to a file outside it.
        RunLockedError: Another process has the run folder open for writing.
        UsageError: Arrow does not support the kind of storage.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} to push. Check the path.")
    if not (folder / MANIFEST).is_file():
        return _push(_list_files(folder), address)
    with RunFolder.open(folder), tempfile.TemporaryDirectory() as scratch:
        files = _list_files(folder)
        _require_no_links_outside(files, folder)
        # The images of items are the same files as the downloads.
        files = {name: path for name, path in files.items() if not name.startswith(f"{DOWNLOADS}/")}
        if RESPONSE_CACHE in files:
            # A killed process may have left responses in SQLite's log next to the file.
            files = {name: path for name, path in files.items() if RESPONSE_CACHE not in name}
            files[RESPONSE_CACHE] = Path(scratch) / "responses.sqlite"
            copy_responses(folder / RESPONSE_CACHE, files[RESPONSE_CACHE])
        return _push(files, address)


def _push(files: Mapping[str, Path], address: str) -> int:
    storage, root = _open_storage(address)
    with _wrap_storage_errors(address):
        if storage.get_file_info(f"{root}/{MANIFEST}").is_file:
            storage.delete_file(f"{root}/{MANIFEST}")
        for name in _manifest_last(files):
            target = f"{root}/{name}"
            storage.create_dir(target.rpartition("/")[0])
            fs.copy_files(
                str(files[name]),
                target,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=storage,
            )
    return len(files)


def _list_files(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by relative name, without hidden ones."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path
        for name, path in names.items()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/"))
    }


def _require_no_links_outside(files: Mapping[str, Path], folder: Path) -> None:
    """Raise `DataError` for a link that would send a file from elsewhere on this machine."""
    root = folder.resolve()
    for name, path in files.items():
        if not path.resolve().is_relative_to(root):
            raise DataError(
                f"{name} in {folder} is a link to {path.resolve()}, which is outside the run "
                "folder. Replace the link with the file, or remove it."
            )


def _manifest_last(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name == MANIFEST, name))


def _open_storage(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it."""
    try:
        with _wrap_storage_errors(address):
            storage, root = fs.FileSystem.from_uri(address)
    except ValueError as error:
        raise UsageError(
            f"{address} is not an address of object storage ({error}). Use an address such as "
            "s3://bucket/folder; supported are s3, gs, abfs, hdfs and file."
        ) from error
    return storage, root.rstrip("/")


@contextlib.contextmanager
def _wrap_storage_errors(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Cannot read or write {address}: {first_line(error)}. Check the address and the "
            "credentials of this machine."
        ) from error
