"""What retrieval has made once, kept in the run folder for the next start.

Vectors of the catalogue and the recommender that proposes candidates follow from the run's tables
and settings; `recommend/recommender.py` and `recommend/catalog.py` make them under a key of what they follow
from. There is one place for each kind of thing, so that what no key asks for any more goes.
Nothing here decides anything: what is missing, damaged or of another key is made again, and a
folder that cannot be written is only mentioned.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mllm_msr.errors import MllmMsrError
from mllm_msr.interfaces import Recommender
from mllm_msr.storage.atomic import content_hash, replace_file, sync_tree, write_text

# Where a run folder keeps what is described here.

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


def digest(**told: object) -> str:
    """A key: hexadecimal SHA-256 of what something follows from.

    Args:
        told: Values that JSON can write, and frames, of which rows and columns count.

    Example:
        >>> digest(name="item_knn", fold=0) == digest(fold=0, name="item_knn")
        True
    """
    plain = {
        name: _frame_digest(value) if isinstance(value, pl.DataFrame) else value
        for name, value in told.items()
    }
    text = json.dumps(plain, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@final
class ArtifactCache:
    """Things that were made once.

    Args:
        folder: Where they lie; `None` keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def array(self, place: str, key: str, make: Callable[[], Floats]) -> Floats:
        """Numbers that were kept under a key, or that are made and kept now.

        Args:
            place: What they are, a file's name; numbers of another key there are replaced.
            key: See `digest`.
            make: Makes them, float32 of any shape.
        """
        if self._folder is None:
            return make()
        path = self._folder / f"{place}.safetensors"
        found = _read_array(path, key)
        if found is None:
            found = np.ascontiguousarray(make(), dtype=np.float32)
            told = {"key": key, "sha256": _sha256(found)}
            try:
                with replace_file(path) as temporary:
                    save_file({"values": found}, temporary, metadata=told)
            except MllmMsrError as error:
                logger.warning("%s are made again at the next start: %s", place, error)
        return found

    def recommender(
        self, place: str, key: str, kind: type[Recommender], fit: Callable[[], Recommender]
    ) -> Recommender:
        """A fitted recommender that was kept under a key, or that is fitted and kept now.

        Args:
            place: As for `array`, a folder's name.
            key: See `digest`.
            kind: Its class.
            fit: Makes and fits it.
        """
        if self._folder is None:
            return fit()
        folder, note = self._folder / place / key[:16], self._folder / f"{place}.json"
        try:
            if _is_intact(folder, note, key):
                return kind.load(folder)
        except (MllmMsrError, OSError) as error:
            logger.warning("%s cannot be read and is fitted again: %s", folder, error)
        made = fit()
        try:
            _write(made, folder)
            write_text(note, json.dumps({"key": key, "sha256": content_hash(folder)[0]}))
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        except (MllmMsrError, OSError) as error:
            logger.warning("%s is fitted again at the next start: %s", place, error)
        return made


def _frame_digest(frame: pl.DataFrame) -> str:
    written = io.BytesIO()
    frame.rechunk().write_ipc(written)
    return hashlib.sha256(written.getvalue()).hexdigest()


def _sha256(values: Floats) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _read_array(path: Path, key: str) -> Floats | None:
    """Numbers of that key; `None` where there are none, or where they are not what was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            told: Mapping[str, str] = file.metadata() or {}
            if told.get("key") != key:
                return None
            values: Floats = file.get_tensor("values")
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be read and is made again: %s", path, error)
        return None
    if told.get("sha256") != _sha256(values):
        logger.warning("%s is damaged and is made again", path)
        return None
    return values


def _is_intact(folder: Path, note: Path, key: str) -> bool:
    if not note.is_file():
        return False
    try:
        told: Any = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return bool(told == {"key": key, "sha256": content_hash(folder)[0]})


def _write(made: Recommender, folder: Path) -> None:
    """Save into a folder that begins empty; nobody believes it before its note is written."""
    shutil.rmtree(folder, ignore_errors=True)
    made.save(folder)
    sync_tree(folder)
