"""Pictures of new items: opened under every limit, written anew, kept under a hash."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from mllm_msr.errors import RunFolderError
from mllm_msr.images import decode_image

_SIDE: Final = 512


def as_png(content: bytes, item_id: str) -> bytes:
    """A client's picture as a PNG of at most 512 pixels a side.

    Raises:
        ImageError: It is no picture, or exceeds a limit of `images.py`.
    """
    image = decode_image(content, name=f"the picture of {item_id!r}", max_side=_SIDE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def keep_picture(folder: Path, digest: str, png: bytes | None) -> Path | None:
    """A picture as a file for the model; its name is a hash, never a client's.

    Raises:
        RunFolderError: There is no room for it.
    """
    if png is None:
        return None
    path = folder / f"{digest}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size != len(png):
            path.write_bytes(png)
    except OSError as error:
        raise RunFolderError(
            needed="room for a picture in the service's folder",
            received=f"{path} ({error.strerror})",
            remedy="make room and send the item again",
        ) from error
    return path
