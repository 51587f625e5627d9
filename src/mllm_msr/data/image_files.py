"""Search for the image files of items by their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def images_by_stem(folder: Path) -> dict[str, str]:
    """Map file names without suffix to the absolute paths of the images in a folder.

    The mapping is empty if the folder does not exist.
    """
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    root = str(folder.absolute())
    split = (os.path.splitext(name) for name in names)  # noqa: PTH122 -- 10 times faster
    return {
        stem: f"{root}/{stem}{suffix}"
        for stem, suffix in split
        if suffix.lower() in _IMAGE_SUFFIXES
    }
