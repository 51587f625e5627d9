"""Names of the images that a run stores: the hash of the content, so that reads can verify it.

`data/image_store.py` writes these files, `data/images.py` verifies them when it reads them, and
equal images have the same name.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

# Regular expression of Python and of Polars.
NAME_PATTERN: Final = r"sha256-([0-9a-f]{64})\.(?:jpg|png|webp|gif)"
_SUFFIXES: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}


def image_name(content: bytes, image_format: str) -> str:
    """Return the file name of an image.

    Args:
        content: Content of the file.
        image_format: "JPEG", "PNG", "WEBP" or "GIF".
    """
    return f"sha256-{hashlib.sha256(content).hexdigest()}.{_SUFFIXES[image_format]}"


def hash_in_name(name: str) -> str | None:
    """Return the hexadecimal SHA-256 in the name of a stored image, `None` for other names."""
    match = re.fullmatch(NAME_PATTERN, name)
    return match[1] if match else None
