"""Uploaded images and thumbnails of items. All images are decoded and encoded again.

The engine calls these functions in one thread, so that one image is decoded at a time: a file of a
few kilobytes can have millions of pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mllm_msr.data.images import WEB_FORMATS, decode_image, read_image
from mllm_msr.storage.atomic import replace_file

_MAX_SIDE: Final = 512
_MAX_THUMBNAIL_SIDE: Final = 320


def to_png(content: bytes, item_id: str, *, max_pixels: int) -> bytes:
    """Convert an uploaded image to a PNG of at most 512 pixels per side.

    Args:
        content: Content of the image file.
        item_id: Item id for error messages.
        max_pixels: Maximum width times height.

    Raises:
        ImageError: The content is not an image, or exceeds a limit of `data/images.py`.
    """
    image = decode_image(
        content,
        name=f"The image of {item_id!r}",
        max_side=_MAX_SIDE,
        max_pixels=max_pixels,
        formats=WEB_FORMATS,
    )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def store_images(folder: Path, digest: str, pngs: Sequence[bytes]) -> list[Path]:
    """Write the images of an item for the model unless they already exist; return their paths.

    Args:
        folder: Folder of the images.
        digest: Hash of the item, used as file name, so that clients cannot choose the name.
        pngs: The images.

    Raises:
        RunFolderError: The disk is full, or the folder cannot be written.
    """
    paths = []
    for number, png in enumerate(pngs, start=1):
        path = folder / (f"{digest}.png" if number == 1 else f"{digest}-{number}.png")
        if not path.is_file() or path.stat().st_size != len(png):
            # Write atomically: a request with the same content may be reading the file.
            with replace_file(path) as temporary:
                temporary.write_bytes(png)
        paths.append(path)
    return paths


def thumbnail(path: Path, *, max_pixels: int) -> bytes:
    """Convert the image of an item to a JPEG of at most 320 pixels per side, about 20 kB.

    The content of the file is never sent unchanged, so that a file that is not an image, such as an
    HTML page, does not reach the browser.

    Args:
        path: The image.
        max_pixels: Maximum width times height.

    Raises:
        ImageError: The file is missing or not an image, or exceeds a limit of `data/images.py`.
    """
    buffer = io.BytesIO()
    image = decode_image(
        read_image(path), name="The image", max_side=_MAX_THUMBNAIL_SIDE, max_pixels=max_pixels
    )
    image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
