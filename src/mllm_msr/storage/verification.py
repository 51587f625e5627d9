"""Verification of finished files: hashes of files that this process has read, and checked JSON.

`known_hash` hashes a file once per process as long as its size, times and inode stay the same, so
that the same artifact can be verified before every read. `dump` and `parse` write and read JSON
that contains the hash of its own content, so that a changed digit is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mllm_msr.storage.atomic import content_hash

_CHECKSUM: Final = "checksum"
# A file system stores times with limited resolution: a file that was changed just before it was
# hashed may change again without a new time.
_SETTLED_AFTER: Final = 100_000_000  # nanoseconds

_State = tuple[tuple[str, int, int, int, int], ...]
_known: dict[Path, tuple[_State, tuple[str, int]]] = {}
_lock: Final = threading.Lock()


def known_hash(path: Path) -> tuple[str, int]:
    """Return `content_hash` of a file or folder, without reading it again if it is unchanged.

    Raises:
        OSError: It does not exist, cannot be read, or is neither a file nor a folder.
    """
    before = _state(path)
    with _lock:
        known = _known.get(path)
    if known is not None and known[0] == before:
        return known[1]
    result = content_hash(path)
    newest = max((max(mtime, ctime) for _, _, mtime, ctime, _ in before), default=0)
    if time.time_ns() - newest > _SETTLED_AFTER and _state(path) == before:
        with _lock:
            _known[path] = (before, result)
    return result


def find_damage(path: Path, *, sha256: str, size: int) -> str | None:
    """Return how a file or folder differs from what was recorded; None if it does not.

    Args:
        path: The file or folder.
        sha256: Recorded hash, see `content_hash`.
        size: Recorded size in bytes.
    """
    try:
        found, found_size = known_hash(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if found == sha256:
        return None
    return (
        f"{path} has {found_size:,} bytes with SHA-256 {found[:12]}... instead of {size:,} bytes "
        f"with SHA-256 {sha256[:12]}..."
    )


def _state(path: Path) -> _State:
    """Return name, size, times and inode of every file."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    described = []
    for file in files:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            # Reading a pipe would wait for another process.
            raise OSError(errno.EINVAL, "not a regular file", str(file))
        described.append(
            (str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        )
    return tuple(described)


def dump(content: Mapping[str, Any]) -> str:
    """Return JSON text that contains the hash of its content.

    Args:
        content: Values by name; "checksum" is added.
    """
    return json.dumps({**content, _CHECKSUM: _digest(content)}, indent=2, ensure_ascii=False) + "\n"


def parse(text: str) -> dict[str, Any]:
    """Return the content of a text that `dump` wrote.

    Raises:
        ValueError: The text is not JSON, or its content has changed.
    """
    content = load_json(text)
    if isinstance(content, dict) and content.pop(_CHECKSUM, None) == _digest(content):
        return content
    raise ValueError("the content does not match its checksum")


def load_json(text: str) -> Any:
    """Return the value of a JSON text from a file that may be damaged.

    Raises:
        ValueError: The text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
