"""Images: open, check, resize and hash them; the policy for missing and broken ones.

Every image that a model or the report shows passes through `open_image`, which trusts
nothing: byte and pixel limits hold before anything is decoded, only JPEG, PNG, WebP and GIF are
read, and whatever a decoder does with a malformed file becomes one `ImageError`. Of an animation
the first frame counts. An item whose image is missing or unreadable goes on with its text
alone; `image_status` says which, so that such items are counted and never dropped in silence.
The images are the covers of the paper's section 3.2.1; downloading them is `data/image_download.py`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image, ImageOps

from mllm_msr.errors import ImageError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS: Final = 40_000_000
MAX_BYTES: Final = 20 * 2**20

Status = Literal["ok", "missing", "unreadable"]

# `warnings.catch_warnings` swaps the process-wide filters: two threads must not do so at once.
_FILTERS_LOCK: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """Whether an item's image can be used.

    Attributes:
        status: "ok", "missing" (no path, or no file there) or "unreadable".
        reason: One sentence for what is not "ok", empty otherwise.
    """

    status: Status
    reason: str = ""


def open_image(
    path: Path,
    *,
    max_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Image.Image:
    """Read a image as upright RGB.

    Args:
        path: File in JPEG, PNG, WebP or GIF; its name's ending does not matter.
        max_side: Longest side of the result, in pixels; larger images are reduced (JPEG
            already while decoding), smaller ones stay. `None` keeps the size.
        max_pixels: Most pixels (width times height) that the header may announce.
        max_bytes: Largest file, in bytes.

    Returns:
        Mode RGB, 8 bits: first frame, turned as its EXIF orientation says, transparency on white.

    Raises:
        ImageError: There is no such file, it exceeds a limit, is in another format, truncated
            or malformed.
    """
    content = _read(path, max_bytes=max_bytes)
    return decode_image(content, name=str(path), max_side=max_side, max_pixels=max_pixels)


def decode_image(
    content: bytes, *, name: str, max_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Like `open_image`, for a file's content.

    Args:
        content: What the file would hold.
        name: What to call it in an error.
        max_side: As for `open_image`.
        max_pixels: As for `open_image`.

    Raises:
        ImageError: As for `open_image`.
    """
    image = _parse_header(content, name)
    if image.width * image.height > max_pixels:
        raise ImageError(
            needed=f"a image of at most {max_pixels:,} pixels",
            received=f"{name} with {image.width} x {image.height}",
            remedy="make it smaller or raise the limit",
        )
    try:
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))
        image.load()
        image = _to_rgb(_upright(image))
    except Exception as error:
        raise ImageError(
            needed="a complete image",
            received=f"{name}, whose {image.format} data is truncated or malformed ({error})",
            remedy="replace the file or remove it",
        ) from error
    if max_side is not None:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def image_status(
    path: Path | None, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> ImageStatus:
    """Say whether `open_image` would succeed, without keeping the image.

    The whole file is decoded, as only that finds truncation, but JPEG at an eighth of its size.

    Args:
        path: An item's image, `None` where it has none.
        max_pixels: As for `open_image`.
        max_bytes: As for `open_image`.
    """
    if path is None:
        return ImageStatus("missing", "the item names no image")
    try:
        open_image(path, max_side=1, max_pixels=max_pixels, max_bytes=max_bytes)
    except ImageError as error:
        absent = isinstance(error.__cause__, FileNotFoundError)
        return ImageStatus("missing" if absent else "unreadable", str(error))
    return ImageStatus("ok")


def content_hash(path: Path) -> str:
    """Hexadecimal SHA-256 of a image's file, whatever is in it.

    Raises:
        ImageError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def thumbnail_data_url(path: Path, size: int, *, quality: int = 80) -> str:
    """A small JPEG of a image as a `data:` URL, for pages that must be one file.

    Args:
        path: File that `open_image` can read.
        size: Longest side, in pixels.
        quality: JPEG quality, 1 to 95.

    Raises:
        ImageError: As for `open_image`.
    """
    buffer = io.BytesIO()
    open_image(path, max_side=size).save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _read(path: Path, *, max_bytes: int) -> bytes:
    try:
        # Opening a named pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(
                needed="a regular file with a image",
                received=f"{path}, which is a folder or a device",
                remedy="name the image itself",
            )
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise _unreadable(path, error) from error
    if len(content) > max_bytes:
        raise ImageError(
            needed=f"a image file of at most {max_bytes:,} bytes",
            received=f"{path} with {path.stat().st_size:,}",
            remedy="make it smaller or raise the limit",
        )
    return content


def _unreadable(path: Path, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or str(error)
    return ImageError(
        needed="a image that can be read",
        received=f"{path!s:.300} ({reason})",
        remedy="check the path and its permissions",
    )


def _parse_header(content: bytes, name: str) -> Image.Image:
    try:
        with _FILTERS_LOCK, warnings.catch_warnings():
            # Pillow only warns of a decompression bomb; the caller's own limit decides instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            needed="a image of reasonable size",
            received=f"{name}, a decompression bomb ({error})",
            remedy="make it smaller or remove it",
        ) from error
    except Exception as error:
        raise ImageError(
            needed=f"a image in one of {', '.join(FORMATS)}",
            received=f"{name} with {_describe(content)}",
            remedy="fetch it again or convert it",
        ) from error


def _describe(content: bytes) -> str:
    if not content:
        return "zero bytes"
    head = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "a web page (HTML) in it"
    if head.startswith((b"<svg", b"<?xml")):
        return "a text document (SVG or XML) in it"
    return f"content that begins with {content[:12]!r}"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - broken EXIF data of any kind: the pixels are still good
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255; the upper byte is the 8-bit image.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
