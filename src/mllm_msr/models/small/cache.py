"""The assembled small model in the user's cache.

A checkpoint appears in the cache complete, or not at all: it is written to a temporary folder,
which is then renamed. Its digest is stored with it and compared when a process first uses it; a
damaged checkpoint is assembled again. A lock keeps two processes from assembling it together.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from mllm_msr.models.digests import folder_digest
from mllm_msr.models.small.assembly import VERSION, assemble
from mllm_msr.models.small.sources import PROJECTOR, require_packages
from mllm_msr.storage.atomic import (
    TEMPORARY_SUFFIX,
    content_hash,
    make_private_folder,
    sync,
    sync_tree,
    wrap_os_errors,
)
from mllm_msr.storage.user_cache import user_cache

logger = logging.getLogger(__name__)

_DIGEST: Final = "checkpoint.sha256"


def small_checkpoint(image_grid: int) -> Path:
    """Return the folder of the small model, which the first call assembles.

    Args:
        image_grid: Number of rows and of columns of image tokens.

    Raises:
        BackendError: A package is not installed or contains other files than expected.
        RunFolderError: The user's cache cannot be written.
    """
    folder = checkpoint_path(image_grid)
    if is_intact(folder):
        return folder
    require_packages()
    with _assembling(folder):
        if not is_intact(folder):  # another process may have assembled it meanwhile
            _replace(folder, image_grid)
    return folder


def checkpoint_path(image_grid: int) -> Path:
    """Return where the checkpoint is in the user's cache, whether or not it exists."""
    projector = content_hash(PROJECTOR)[0][:8]
    return user_cache() / "smollm" / f"smollm-{image_grid**2}-v{VERSION}-{projector}"


def is_intact(folder: Path) -> bool:
    """Return whether a folder contains a complete checkpoint that did not change."""
    recorded = folder / _DIGEST
    return recorded.is_file() and recorded.read_text(encoding="ascii") == folder_digest(folder)


def _replace(folder: Path, image_grid: int) -> None:
    """Assemble a checkpoint and put it in the place of a damaged one or of none."""
    if folder.exists():
        logger.warning("The model in %s is damaged. It is assembled again.", folder)
    else:
        logger.warning("Assembling the model smollm in %s. This happens once.", folder)
    for leftover in folder.parent.glob(f".*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    aside = folder.with_name(f".{folder.name}.damaged{TEMPORARY_SUFFIX}")
    temporary.mkdir()
    try:
        assemble(temporary, image_grid=image_grid)
        (temporary / _DIGEST).write_text(folder_digest(temporary), encoding="ascii")
        sync_tree(temporary)
        if folder.exists():
            folder.rename(aside)
        temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _assembling(folder: Path) -> Iterator[None]:
    """Hold the lock of the cache; wait if another process holds it."""
    with wrap_os_errors(folder):
        make_private_folder(folder.parent)
        lock = filelock.FileLock(folder.parent / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.warning("Waiting for another process that assembles the model smollm.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
