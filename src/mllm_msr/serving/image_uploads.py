"""Images: a client's as it comes in, an item's as it is shown; each opened and written anew."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from mllm_msr.data.images import decode_image, open_image
from mllm_msr.storage.atomic import replace_file

_SIDE: Final = 512
_SHOWN_SIDE: Final = 320


def as_png(content: bytes, item_id: str) -> bytes:
    """A client's image as a PNG of at most 512 pixels a side.

    Raises:
        ImageError: It is no image, or exceeds a limit of `data/images.py`.
    """
    image = decode_image(content, name=f"the image of {item_id!r}", max_side=_SIDE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def keep_image(folder: Path, digest: str, png: bytes | None) -> Path | None:
    """A image as a file for the model; its name is a hash, never a client's.

    Raises:
        RunFolderError: There is no room for it, or the folder cannot be written.
    """
    if png is None:
        return None
    path = folder / f"{digest}.png"
    if not path.is_file() or path.stat().st_size != len(png):
        # At once: a request with the same content may be reading it.
        with replace_file(path) as temporary:
            temporary.write_bytes(png)
    return path


def as_shown(path: Path) -> bytes:
    """An item's image for the page: a JPEG of at most 320 pixels a side, some 20 kB.

    What the file holds is never passed on as it is: a page instead of a image stays here.

    Raises:
        ImageError: It is no image, is gone, or exceeds a limit of `data/images.py`.
    """
    buffer = io.BytesIO()
    open_image(path, max_side=_SHOWN_SIDE).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
