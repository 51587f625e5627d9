"""Cache of computed artifacts of a run folder: arrays and fitted recommenders.

The recommender of a finished run stores the vectors of the catalog and its collaborative candidate
generator here, so that the next start is fast. An artifact is stored under a name together with a
key, the hash of everything it was computed from. An artifact with another key, or a damaged one,
is computed again and replaced. If the folder is not writable, the cache only logs a warning.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mllm_msr.errors import MllmMsrError
from mllm_msr.interfaces import Recommender
from mllm_msr.storage.atomic import content_hash, replace_file, sync_tree, write_text
from mllm_msr.storage.verification import load_json

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


def digest(**parts: object) -> str:
    """Compute the key of an artifact from everything that it depends on.

    Args:
        parts: Values that JSON can represent, and data frames (hashed with their column names).

    Returns:
        A hexadecimal SHA-256.

    Example:
        >>> digest(name="item_knn", fold=0) == digest(fold=0, name="item_knn")
        True
    """
    plain: dict[str, object] = {}
    for name, value in parts.items():
        if isinstance(value, pl.DataFrame):
            content = io.BytesIO()
            value.rechunk().write_ipc(content)
            plain[name] = hashlib.sha256(content.getvalue()).hexdigest()
        else:
            plain[name] = value
    text = json.dumps(plain, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@final
class ArtifactCache:
    """Artifacts on disk, one per name.

    Args:
        folder: Folder of the artifacts; created when the first one is stored. `None` disables the
            cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def array(self, name: str, key: str, compute: Callable[[], Floats]) -> Floats:
        """Return the cached array of a name and key, or compute and store it.

        Args:
            name: Name of the artifact. An array that is stored under another key is replaced.
            key: Key of the artifact, see `digest`.
            compute: Computes the array, float32 of any shape.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}.safetensors"
        values = _read_array(path, key)
        if values is None:
            values = np.ascontiguousarray(compute(), dtype=np.float32)
            metadata = {"key": key, "sha256": _sha256(values)}
            try:
                with replace_file(path) as temporary:
                    save_file({"values": values}, temporary, metadata=metadata)
            except MllmMsrError as error:
                logger.warning("cannot store %r; the next start computes it again: %s", name, error)
        return values

    def recommender(
        self,
        name: str,
        key: str,
        kind: type[Recommender],
        fit: Callable[[], Recommender],
        *,
        refit: bool = False,
    ) -> Recommender:
        """Return the cached recommender of a name and key, or fit and store it.

        Args:
            name: Name of the artifact. A recommender that is stored under another key is deleted.
            key: Key of the artifact, see `digest`.
            kind: Class of the recommender.
            fit: Constructs and fits the recommender.
            refit: Fit and store it again even if it is stored.
        """
        if self._folder is None:
            return fit()
        folder = self._folder / name / key[:16]
        metadata = self._folder / f"{name}.json"
        try:
            if not refit and _is_valid(folder, metadata, key):
                return kind.load(folder)
        except (MllmMsrError, OSError) as error:
            logger.warning("cannot read %s; fitting %r again: %s", folder, name, error)
        recommender = fit()
        try:
            shutil.rmtree(folder, ignore_errors=True)
            recommender.save(folder)
            sync_tree(folder)
            # The artifact is valid only once its metadata file exists.
            write_text(metadata, json.dumps({"key": key, "sha256": content_hash(folder)[0]}))
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        except (MllmMsrError, OSError) as error:
            logger.warning("cannot store %r; the next start fits it again: %s", name, error)
        return recommender


def _read_array(path: Path, key: str) -> Floats | None:
    """Return the array of a key, or `None` if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            values: Floats = file.get_tensor("values")
    except (OSError, SafetensorError) as error:
        logger.warning("cannot read %s; computing it again: %s", path, error)
        return None
    if metadata.get("sha256") != _sha256(values):
        logger.warning("%s is damaged; computing it again", path)
        return None
    return values


def _sha256(values: Floats) -> str:
    return hashlib.sha256(f"{values.dtype} {values.shape} ".encode() + values.tobytes()).hexdigest()


def _is_valid(folder: Path, metadata: Path, key: str) -> bool:
    """Return whether the metadata file belongs to this key and to the content of the folder."""
    if not metadata.is_file() or not folder.is_dir():
        return False
    try:
        stored = load_json(metadata.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return bool(stored == {"key": key, "sha256": content_hash(folder)[0]})
