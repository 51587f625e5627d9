"""Digests of checkpoints: they identify a model in fingerprints, whatever the path of its files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mllm_msr.errors import BackendError

# The weights and all other files that affect a model's inputs or outputs.
_DEFINING_FILES: Final = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def folder_digest(folder: Path) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 over the files of the model."""
    return _files_digest({path for pattern in _DEFINING_FILES for path in folder.glob(pattern)})


def file_digest(file: Path) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 over the name and content of a file.

    Raises:
        BackendError: There is no such file.
    """
    if not file.is_file():
        raise BackendError(f"There is no file {file}. Correct the path in model.*.")
    return _files_digest([file])


def _files_digest(paths: Iterable[Path]) -> str:
    state = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths))
    return _digest(state)


@functools.lru_cache(maxsize=32)
def _digest(state: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the digest of files; the modification times only serve as part of the cache key."""
    total = hashlib.sha256()
    for path, size, _ in state:
        total.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
