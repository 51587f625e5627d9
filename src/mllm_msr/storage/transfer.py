"""Folders copied from object storage before the work, and to it afterwards.

A run folder is held while it is pushed, its response cache goes as one sound file, and its manifest
goes last and is taken away first: a copy that was torn claims nothing, and a pulled run goes on
where it stopped. Arrow, which is here anyway, speaks to the storage.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from mllm_msr.errors import DataError, UsageError
from mllm_msr.storage import atomic
from mllm_msr.storage.layout import MANIFEST, RESPONSE_CACHE
from mllm_msr.storage.response_cache import copy_responses
from mllm_msr.storage.run_folder import RunFolder


def pull(address: str, folder: Path) -> int:
    """Copy everything below an address into a folder.

    Args:
        address: "s3://bucket/run", or any other address that Arrow knows.
        folder: Made where it does not exist; files of the same names are replaced.

    Returns:
        How many files were copied.

    Raises:
        DataError: There is nothing, it cannot be read, or a name leads out of the folder.
        UsageError: There is no such kind of storage.
        RunFolderError: The disk is full or the folder cannot be written.
    """
    storage, root = _opened(address)
    with _explained(address):
        listed = storage.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    names = {_relative(found.path, root): found.path for found in listed if found.is_file}
    if not names:
        raise DataError(
            needed=f"files below {address}", received="none", remedy="check the address"
        )
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in _claim_last(names):
        with atomic.replace_file(folder / name) as temporary, _explained(address):
            fs.copy_files(
                names[name],
                str(temporary),
                source_filesystem=storage,
                destination_filesystem=fs.LocalFileSystem(),
            )
    return len(names)


def push_folder(folder: Path, address: str) -> int:
    """Copy a run folder, or any other one, to object storage.

    Args:
        folder: A folder of this machine. Names that begin with a dot stay here.
        address: "s3://bucket/run", or any other address that Arrow knows.

    Returns:
        How many files were copied.

    Raises:
        DataError: There is no such folder, or the address cannot be written.
        RunLockedError: Another process works in the run folder.
        UsageError: There is no such kind of storage.
    """
    if not folder.is_dir():
        raise DataError(needed="a folder to push", received=str(folder), remedy="check its name")
    if not (folder / MANIFEST).is_file():
        return _push(_files(folder), address)
    with RunFolder.open(folder), tempfile.TemporaryDirectory() as scratch:
        files = _files(folder)
        if RESPONSE_CACHE in files:
            # Responses of a process that was killed may still lie in SQLite's log beside the file.
            files = {name: path for name, path in files.items() if RESPONSE_CACHE not in name}
            files[RESPONSE_CACHE] = Path(scratch) / "responses.sqlite"
            copy_responses(folder / RESPONSE_CACHE, files[RESPONSE_CACHE])
        return _push(files, address)


def _push(files: Mapping[str, Path], address: str) -> int:
    """Copy files to an address, by their names below it; returns how many."""
    storage, root = _opened(address)
    with _explained(address):
        if storage.get_file_info(f"{root}/{MANIFEST}").is_file:
            storage.delete_file(f"{root}/{MANIFEST}")
        for name in _claim_last(files):
            target = f"{root}/{name}"
            storage.create_dir(target.rpartition("/")[0])
            fs.copy_files(
                str(files[name]),
                target,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=storage,
            )
    return len(files)


def _files(folder: Path) -> dict[str, Path]:
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path
        for name, path in names.items()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/"))
    }


def _claim_last(names: Mapping[str, object]) -> list[str]:
    return sorted(names, key=lambda name: (name == MANIFEST, name))


def _opened(address: str) -> tuple[Any, str]:
    try:
        with _explained(address):
            storage, root = fs.FileSystem.from_uri(address)
    except ValueError as error:
        raise UsageError(
            needed="an address such as s3://bucket/folder",
            received=f"{address} ({error})",
            remedy="name a kind of storage that Arrow knows: s3, gs, abfs, hdfs or file",
        ) from error
    return storage, root.rstrip("/")


def _relative(path: str, root: str) -> str:
    name = path.removeprefix(root).lstrip("/")
    if ".." in PurePosixPath(name).parts:
        raise DataError(
            needed="names inside the folder",
            received=repr(name),
            remedy="remove that object, or copy the others by hand",
        )
    return name


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            needed=f"{address}, readable and writable",
            received=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="check the address and the credentials of this machine",
        ) from error
