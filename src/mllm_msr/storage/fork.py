"""Copying finished stages from one run folder into another, so that variants share work.

Comparisons and experiments use it for runs that differ only from some stage on, such as the
ablations and sweeps of the paper. Files are copied rather than linked, so that changes in one run
folder never affect the other; only images, which are never changed, are links.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mllm_msr.storage import atomic, layout, manifest
from mllm_msr.storage.response_cache import copy_responses
from mllm_msr.storage.run_folder import RunFolder


def copy_stages(target: RunFolder, source: RunFolder, stages: Sequence[str]) -> list[str]:
    """Copy finished stages and caches from one run folder into another.

    Stages that the target already has with the same outputs are skipped; all others are replaced.
    Stages of the target that have read a replaced output become stale. The response cache is
    copied unless the target has one, and so are cached content vectors.

    Args:
        target: Run folder that is open for writing and whose response cache is not open yet.
        source: Run folder that this process has opened.
        stages: Names of stages or of groups of stages: "train" means "train/0", "train/1", ...

    Returns:
        The names of the copied stages.

    Raises:
        RunFolderError: The disk is full or a folder is not writable.
        DamagedFileError: An output of the source is not what its stage wrote.
    """
    target.require_writable()
    theirs, ours = manifest.load(source.folder), manifest.load(target.folder)
    shared = {name: each for name, each in theirs.items() if name.partition("/")[0] in stages}
    target.announced.update(shared)
    copied = {name: entry for name, entry in shared.items() if ours.get(name) != entry}
    others = {name: entry for name, entry in ours.items() if name not in copied}
    if "prepare" in copied:
        for image in (source.folder / layout.IMAGES).glob("sha256-*"):
            atomic.link_or_copy(image, target.folder / layout.IMAGES / image.name)
    if len(others) < len(ours):
        # No stage may be finished while its outputs are being replaced.
        manifest.save(target.folder, others)
    for entry in copied.values():
        for output in entry["outputs"]:
            _copy(source.verified(output), target.folder / output)
    responses = source.folder / layout.RESPONSE_CACHE
    if responses.exists() and not (target.folder / layout.RESPONSE_CACHE).exists():
        copy_responses(responses, target.folder / layout.RESPONSE_CACHE)
    for vectors in (source.folder / layout.CONTENT_CACHE).glob("*.safetensors"):
        copy = target.folder / layout.CONTENT_CACHE / vectors.name
        if not copy.exists():  # the name is the hash of the content
            _copy(vectors, copy)
    if copied:
        # The copied stages first: the manifest lists stages in the order of the pipeline.
        manifest.save(target.folder, {**copied, **others})
    return list(copied)


def _copy(path: Path, target: Path) -> None:
    """Copy a file atomically, or a folder that no finished stage of the target has as output."""
    if path.is_dir():
        with atomic.wrap_os_errors(target):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
            atomic.sync_tree(target)
        return
    with atomic.replace_file(target) as temporary:
        shutil.copyfile(path, temporary)
