"""A run folder that begins with another one's finished stages, so that variants share work.

Used by comparisons and experiments: runs that differ only from some stage on (the paper's
ablations and sweeps) take the earlier tables over instead of making them again. Files are copied,
not linked, so that what is done in one folder can never reach the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mllm_msr.storage import atomic, manifest
from mllm_msr.storage.layout import CONTENT_CACHE, RESPONSE_CACHE
from mllm_msr.storage.response_cache import copy_responses
from mllm_msr.storage.run_folder import RunFolder

# Where `prepare` keeps the images that it has fetched; the items name them by relative paths.
_IMAGES: Final = "images"


def copy_stages(target: RunFolder, source: RunFolder, stages: Sequence[str]) -> list[str]:
    """Copy finished stages of one run folder into another, and what its caches hold.

    These are the responses of its models, and content vectors.

    What the target has from an earlier call is left as it is, unless the source has it otherwise
    by now. The target's own stages are checked as always when they are next asked for: one that
    read what has been replaced is refused.

    Args:
        target: Opened for writing; its response cache has not been used yet.
        source: Opened by this process, in whatever way.
        stages: Names of stages, or of groups of them: "train" stands for "train/0", "train/1".

    Returns:
        The stages that were copied.

    Raises:
        RunFolderError: The disk is full or a folder cannot be written.
        DamagedFileError: An output of the source is not what was written.
    """
    target.require_writable()
    theirs, ours = manifest.load(source.folder), manifest.load(target.folder)
    wanted = {
        name: entry
        for name, entry in theirs.items()
        if name.partition("/")[0] in stages and ours.get(name) != entry
    }
    if "prepare" in wanted:
        _copy_images(source.folder / _IMAGES, target.folder / _IMAGES)
    if any(name in ours for name in wanted):
        # Claimed by nobody while their files are replaced.
        manifest.save(target.folder, {k: v for k, v in ours.items() if k not in wanted})
    for entry in wanted.values():
        for output in entry["outputs"]:
            _copy(source.verified(output), target.folder / output)
    responses = target.folder / RESPONSE_CACHE
    if not responses.exists() and (source.folder / RESPONSE_CACHE).exists():
        copy_responses(source.folder / RESPONSE_CACHE, responses)
    for vectors in source.inside(CONTENT_CACHE).glob("*.safetensors"):
        copy = target.inside(CONTENT_CACHE) / vectors.name
        if not copy.exists():  # the name is the hash of what it was made from
            _copy(vectors, copy)
    if wanted:
        kept = {k: v for k, v in manifest.load(target.folder).items() if k not in wanted}
        # First what was taken over: the manifest's order is that of the flow.
        manifest.save(target.folder, {**wanted, **kept})
    return list(wanted)


def _copy(path: Path, target: Path) -> None:
    """Copy a file at once, or a folder that no manifest claims yet."""
    if path.is_dir():
        with atomic.wrap_os_errors(target):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
            atomic.sync_tree(target)
        return
    with atomic.replace_file(target) as temporary:
        shutil.copyfile(path, temporary)


def _copy_images(folder: Path, target: Path) -> None:
    if folder.is_dir():
        with atomic.wrap_os_errors(target):
            shutil.copytree(folder, target, dirs_exist_ok=True)
