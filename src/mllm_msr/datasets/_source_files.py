"""Search for the files of a dataset in its folder."""

from __future__ import annotations

from pathlib import Path

from mllm_msr.data.reading.reader import SUFFIXES
from mllm_msr.errors import DataError
from mllm_msr.storage.uri import require_local


def require_folder(path: Path) -> Path:
    """Return the absolute path of a folder that must exist.

    Raises:
        DataError: The folder does not exist or is a file.
        RunFolderError: The path is in object storage.
    """
    if not require_local(path).is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(
            f"The dataset folder {path} {problem}. "
            "Set data.path to the folder with the files of the dataset."
        )
    return path.absolute()


def find_file(folder: Path, *patterns: str) -> Path | None:
    """Return the file that matches the first pattern with a match, `None` if there is none.

    Raises:
        DataError: Several files match one pattern.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise DataError(
                f"{len(found)} files in {folder} match {pattern}, but only one is allowed: "
                f"{', '.join(path.name for path in found)}. Move the others to another folder."
            )
        if found:
            return found[0]
    return None


def require_file(folder: Path, *patterns: str, content: str) -> Path:
    """Return the file that matches the first pattern with a match; there must be one.

    Args:
        folder: Folder to search.
        patterns: File names with wildcards, in order of preference.
        content: What the file contains, for error messages ("ratings").

    Raises:
        DataError: No file matches, or several match one pattern.
    """
    found = find_file(require_folder(folder), *patterns)
    if found is None:
        raise DataError(
            f"{folder} has no file with {content} ({' or '.join(patterns)}). "
            f"It {_present(folder)}. "
            "Copy the file there or set data.path to the folder that contains it."
        )
    return found


def require_table(folder: Path, name: str | None, content: str) -> Path:
    """Return the file with a table: the one that a setting names, or else `CONTENT.*`.

    Args:
        folder: Folder of the dataset.
        name: Value of the setting: a path, absolute or relative to the folder, or `None`.
        content: What the file contains: "interactions" or "items".

    Raises:
        DataError: There is no such file, or several files could be meant.
    """
    if name is not None:
        path = require_local(folder / name)
        if path.is_dir():
            raise DataError(
                f"data.{content}_file is {name!r}, which is a folder. Merge its files into one, "
                "for example with polars.read_parquet(FOLDER).write_parquet(FILE)."
            )
        if not path.is_file():
            raise DataError(
                f"data.{content}_file is {name!r}, but there is no file {path}. {folder} "
                f"{_present(folder)}. Give an absolute path, or one relative to data.path."
            )
        return path
    found = [
        path
        for suffix in SUFFIXES
        for end in ("", ".gz")
        if (path := folder / f"{content}{suffix}{end}").is_file()
    ]
    if not found:
        raise DataError(
            f"{folder} has no file with {content} ({content}.csv, .tsv, .parquet, .jsonl or .xlsx)."
            f" It {_present(folder)}. Copy the file there, or set data.{content}_file."
        )
    if len(found) > 1:
        raise DataError(
            f"{folder} has several files with {content}: {', '.join(p.name for p in found)}. "
            f"Set data.{content}_file to the one to use."
        )
    return found[0]


def _present(folder: Path) -> str:
    """Return what a folder contains, as the end of a sentence."""
    names = sorted(f"{path.name}{_kind(path)}" for path in folder.iterdir())
    return f"contains {', '.join(names[:10])}" if names else "is empty"


def _kind(path: Path) -> str:
    """Return what a path is if it is no file."""
    if path.is_file():
        return ""
    return "/" if path.is_dir() else " (a broken link or no file)"
