"""Image files: open, check, resize and hash them.

Every image that a model or the report shows is opened by `open_image`, which treats files as
untrusted input: limits on bytes and pixels apply before anything is decoded, only a few formats are
read, a stored image must have the hash in its name, and every decoder failure becomes an
`ImageError`. Only the first frame of an animation is used. An item whose image is missing or
unreadable is processed with its text alone; `image_status` reports such items so that they can be
counted. The paper's section 3.2.1 uses cover images; `data/image_store.py` copies images into the
run folder, and `data/image_download.py` downloads those that a dataset only links to.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import math
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import ExifTags, Image

from mllm_msr.errors import ImageError
from mllm_msr.storage.image_names import hash_in_name

# Formats of images from the network and of stored images, and those of a user's own files.
WEB_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
FORMATS: Final = (*WEB_FORMATS, "BMP", "TIFF", "AVIF")
MAX_PIXELS: Final = 40_000_000
MAX_BYTES: Final = 20 * 2**20
# Models reject, or enlarge to gigabytes, images whose sides differ by more.
MAX_ASPECT_RATIO: Final = 20

Status = Literal["ok", "missing", "unreadable"]

# Larger images are decoded one at a time, so that several threads do not exhaust the memory.
_LARGE: Final = 4_000_000  # pixels
_LARGE_LOCK: Final = threading.Lock()
_BAND: Final = 1_000_000  # pixels that are converted at a time
# Factor between the sizes at which `thumbnail` averages pixels and at which it interpolates.
_REDUCING_GAP: Final = 2.0
_MAX_EXTREME_SIDE: Final = 1024
_ORIENTATIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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


def open_image(path: Path, *, max_side: int | None = None) -> Image.Image:
    """Read an image file as an upright RGB image.

    Args:
        path: File in one of `FORMATS`, which is detected from the content, not from the suffix.
        max_side: Maximum of width and height of the result, in pixels. Larger images are reduced
            (JPEG already while decoding); smaller ones are not enlarged. `None` keeps the size.

    Returns:
        Mode RGB, 8 bits: the first frame, rotated by its EXIF orientation, on a white background
        where it is transparent. If one side is more than `MAX_ASPECT_RATIO` times as long as the
        other, the image has at most 1,024 pixels per side and white margins along the long sides.

    Raises:
        ImageError: The file does not exist, exceeds a limit, has another format, is truncated or
            malformed, or does not have the hash in its name.
    """
    return decode_image(read_image(path), name=str(path), max_side=max_side)


def read_image(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read the content of an image file without decoding it.

    Args:
        path: The file.
        max_bytes: Maximum size of the file.

    Raises:
        ImageError: It cannot be read, is larger, or is a stored image (`storage/image_names.py`)
            whose content does not have the hash in its name.
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
            "Use a smaller file."
        )
    expected = hash_in_name(path.name)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise ImageError(
            f"{path} is damaged: its content differs from what was stored. Restore the file, or "
            "prepare the run again."
        )
    return content


def decode_image(
    content: bytes,
    *,
    name: str,
    max_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Decode the content of an image file as an upright RGB image.

    Args:
        content: Content of the file.
        name: Name of the image in error messages.
        max_side: As for `open_image`.
        max_pixels: Maximum width times height, according to the header.
        formats: Formats of Pillow that are accepted.

    Returns:
        As for `open_image`.

    Raises:
        ImageError: As for `open_image`.
    """
    image = read_header(content, name=name, formats=formats)
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels; the limit is {max_pixels:,} in "
            "total. Use a smaller image."
        )
    try:
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))
        is_large = image.width * image.height > _LARGE
        with _LARGE_LOCK if is_large else contextlib.nullcontext():
            image.load()
            turn = _orientation(image)
            image = _to_rgb(image, max_side)
            if max_side is not None:
                image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            return _limit_aspect_ratio(image if turn is None else image.transpose(turn))
    except Exception as error:
        raise ImageError(
            f"{name} is truncated or malformed {image.format or 'image'} data ({error}). "
            "Replace the file or remove it."
        ) from error


def image_status(path: Path | None) -> ImageStatus:
    """Report whether `open_image` succeeds for an image.

    The whole file is decoded, because truncation cannot be detected otherwise; JPEG is decoded at
    an eighth of its size. Of a stored image, only the hash is checked. The result is kept until
    the size or the time of the file changes.

    Args:
        path: Path of an item's image, `None` if it has none.
    """
    if path is None:
        return ImageStatus("missing", "The item has no image.")
    try:
        state = path.stat()
    except (OSError, ValueError):
        return _check(path)
    return _check_version(path, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


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


def thumbnail_data_url(path: Path, size: int) -> str:
    """Return a small JPEG of an image as a `data:` URL, for self-contained HTML pages.

    Args:
        path: File that `open_image` can read.
        size: Maximum of width and height, in pixels.

    Raises:
        ImageError: As for `open_image`.
    """
    buffer = io.BytesIO()
    open_image(path, max_side=size).save(buffer, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _unreadable_error(path: Path, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or str(error)
    return ImageError(
        f"Cannot read the image {path!s:.300}: {reason}. Check the path and its permissions."
    )


@functools.lru_cache(maxsize=65_536)
def _check_version(path: Path, version: tuple[int, ...]) -> ImageStatus:
    """Return the status of one version of a file."""
    del version
    return _check(path)


def _check(path: Path) -> ImageStatus:
    try:
        if hash_in_name(path.name) is None:
            open_image(path, max_side=1)
        else:
            read_image(path)
    except ImageError as error:
        is_absent = isinstance(error.__cause__, FileNotFoundError)
        return ImageStatus("missing" if is_absent else "unreadable", str(error))
    return ImageStatus("ok")


def read_header(content: bytes, *, name: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Identify the format and read the header, without decoding any pixels.

    Args:
        content: Content of the file.
        name: Name of the image in error messages.
        formats: Formats of Pillow that are accepted.

    Raises:
        ImageError: The content is not an image in one of the formats.
    """
    try:
        with _FILTERS_LOCK, warnings.catch_warnings():
            # Pillow warns above its own limit; `max_pixels` applies instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=formats)
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
            f"{name} is not a {', '.join(formats[:-1])} or {formats[-1]} image: {found}. "
            "Download the image again or convert it to one of these formats."
        ) from error


def _orientation(image: Image.Image) -> Image.Transpose | None:
    # Ignore broken EXIF data of any kind; the pixels are still valid.
    with contextlib.suppress(Exception):
        return _ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _to_rgb(image: Image.Image, max_side: int | None) -> Image.Image:
    """Convert to RGB, on white where the image is transparent, with few full-size copies.

    Args:
        image: A decoded image.
        max_side: If the image is several times larger, it is reduced at the same time, to a
            multiple of this size.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    longest = max(image.size)
    factor = 1 if max_side is None else max(1, int(longest / max_side / _REDUCING_GAP))
    rows = max(1, _BAND // image.width // factor) * factor
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        band = _band_to_rgb(image.crop((0, top, image.width, bottom)))
        result.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    return result


def _band_to_rgb(band: Image.Image) -> Image.Image:
    if band.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255; the upper byte is the 8-bit image.
        band = band.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if band.has_transparency_data:
        layer = band.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return band.convert("RGB")


def _limit_aspect_ratio(image: Image.Image) -> Image.Image:
    """Add white margins along the long sides of an extremely long image."""
    longest = max(image.size)
    if longest <= MAX_ASPECT_RATIO * min(image.size):
        return image
    # Padding a million pixels by one would need gigabytes.
    image.thumbnail((_MAX_EXTREME_SIDE, _MAX_EXTREME_SIDE), Image.Resampling.LANCZOS)
    shortest = math.ceil(max(image.size) / MAX_ASPECT_RATIO)
    size = (max(image.width, shortest), max(image.height, shortest))
    padded = Image.new("RGB", size, "white")
    padded.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return padded
