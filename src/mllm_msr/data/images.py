"""Image files: open, check, resize and hash them.

Every image that a model or the report shows is opened by `open_image`, which treats files as
untrusted input: limits on bytes and pixels apply before anything is decoded, only JPEG, PNG, WebP
and GIF are read, and every decoder failure becomes an `ImageError`. Only the first frame of an
animation is used. An item whose image is missing or unreadable is processed with its text alone;
`image_status` reports such items so that they can be counted. The paper's section 3.2.1 uses cover
images; `data/image_download.py` downloads images that a dataset only links to.
"""

from __future__ import annotations

import base64
import contextlib
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

# `warnings.catch_warnings` replaces the filters of the whole process, so it needs a lock.
_FILTERS_LOCK: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """Whether an item's image can be used.

    Attributes:
        status: "ok", "missing" (no path, or no file at the path) or "unreadable".
        reason: One sentence if the status is not "ok", else empty.
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
    """Read an image file as an upright RGB image.

    Args:
        path: File in JPEG, PNG, WebP or GIF. The format is detected from the content, not from
            the suffix.
        max_side: Maximum of width and height of the result, in pixels. Larger images are reduced
            (JPEG already while decoding); smaller ones are not enlarged. `None` keeps the size.
        max_pixels: Maximum width times height, according to the header.
        max_bytes: Maximum file size, in bytes.

    Returns:
        Mode RGB, 8 bits: the first frame, rotated by its EXIF orientation, on a white background
        where it is transparent.

    Raises:
        ImageError: The file does not exist, exceeds a limit, has another format, or is truncated
            or malformed.
    """
    try:
        # Opening a named pipe would block until another process writes to it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(
                f"{path} is a folder or a device. Give the path of an image file instead."
            )
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise _unreadable_error(path, error) from error
    if len(content) > max_bytes:
        raise ImageError(
            f"{path} has {path.stat().st_size:,} bytes; the limit is {max_bytes:,}. "
            "Use a smaller file or raise the limit."
        )
    return decode_image(content, name=str(path), max_side=max_side, max_pixels=max_pixels)


def decode_image(
    content: bytes, *, name: str, max_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode the content of an image file as an upright RGB image.

    Args:
        content: Content of the file.
        name: Name of the image in error messages.
        max_side: As for `open_image`.
        max_pixels: As for `open_image`.

    Returns:
        As for `open_image`.

    Raises:
        ImageError: As for `open_image`.
    """
    image = _parse_header(content, name)
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels; the limit is {max_pixels:,} in "
            "total. Use a smaller image or raise the limit."
        )
    try:
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))
        image.load()
        image = _to_upright_rgb(image)
    except Exception as error:
        raise ImageError(
            f"{name} is truncated or malformed {image.format} data ({error}). "
            "Replace the file or remove it."
        ) from error
    if max_side is not None:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def image_status(
    path: Path | None, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> ImageStatus:
    """Report whether `open_image` succeeds for an image.

    The whole file is decoded, because truncation cannot be detected otherwise; JPEG is decoded at
    an eighth of its size.

    Args:
        path: Path of an item's image, `None` if it has none.
        max_pixels: As for `open_image`.
        max_bytes: As for `open_image`.
    """
    if path is None:
        return ImageStatus("missing", "The item has no image.")
    try:
        open_image(path, max_side=1, max_pixels=max_pixels, max_bytes=max_bytes)
    except ImageError as error:
        is_absent = isinstance(error.__cause__, FileNotFoundError)
        return ImageStatus("missing" if is_absent else "unreadable", str(error))
    return ImageStatus("ok")


def content_hash(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content; the file need not be a valid image.

    Raises:
        ImageError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable_error(path, error) from error


def thumbnail_data_url(path: Path, size: int, *, quality: int = 80) -> str:
    """Return a small JPEG of an image as a `data:` URL, for self-contained HTML pages.

    Args:
        path: File that `open_image` can read.
        size: Maximum of width and height, in pixels.
        quality: JPEG quality, 1 to 95.

    Raises:
        ImageError: As for `open_image`.
    """
    buffer = io.BytesIO()
    open_image(path, max_side=size).save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _unreadable_error(path: Path, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or str(error)
    return ImageError(
        f"Cannot read the image {path!s:.300}: {reason}. Check the path and its permissions."
    )


def _parse_header(content: bytes, name: str) -> Image.Image:
    """Identify the format and read the header, without decoding any pixels.

    Raises:
        ImageError: The content is not an image in one of `FORMATS`.
    """
    try:
        with _FILTERS_LOCK, warnings.catch_warnings():
            # Pillow warns above its own limit; `max_pixels` applies instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is a decompression bomb ({error}). Use a smaller image or remove the file."
        ) from error
    except Exception as error:
        head = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if not content:
            found = "it is empty"
        elif head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
            found = "it is a web page (HTML)"
        elif head.startswith((b"<svg", b"<?xml")):
            found = "it is a text document (SVG or XML)"
        else:
            found = f"it starts with {content[:12]!r}"
        raise ImageError(
            f"{name} is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: {found}. "
            "Download the image again or convert it to one of these formats."
        ) from error


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation and convert to RGB, on white where the image is transparent."""
    # Ignore broken EXIF data of any kind; the pixels are still valid.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255; the upper byte is the 8-bit image.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
