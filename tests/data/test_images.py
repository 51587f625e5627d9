"""Opening images: all formats and modes, limits, and malformed files."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import os
import random
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mllm_msr.data import images
from mllm_msr.errors import ImageError
from mllm_msr.storage.image_names import image_name


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    """Return an image with four different corners."""
    x = np.linspace(0, 255, width, dtype=np.uint8)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height, dtype=np.uint8)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1))


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def stored(folder: Path, content: bytes, name: str = "image") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def corner(image: Image.Image) -> tuple[int, ...]:
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)


@pytest.mark.parametrize("image_format", images.FORMATS)
def test_every_format_opens_as_rgb_close_to_the_original(tmp_path: Path, image_format: str) -> None:
    path = stored(tmp_path, encoded(gradient(), image_format))
    image = images.open_image(path)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(gradient()).astype(int))
    assert difference.mean() < 12


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(gradient(), "PNG"), "image.jpg")
    assert images.open_image(path).size == (48, 32)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert corner(images.open_image(stored(tmp_path, encoded(half, "PNG")))) == (255, 127, 127)


def test_palette_with_a_transparent_color_is_composited_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    opened = images.open_image(stored(tmp_path, encoded(image, "PNG", transparency=0)))
    assert corner(opened) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == (200, 100, 50)


def test_transparent_color_of_an_rgb_png_is_composited_on_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    content = encoded(image, "PNG", transparency=(1, 2, 3))
    assert corner(images.open_image(stored(tmp_path, content))) == (255, 255, 255)


def test_cmyk_is_converted_to_the_same_color(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = corner(images.open_image(stored(tmp_path, encoded(cyan, "JPEG"))))
    assert red < 20
    assert green > 235
    assert blue > 235


def test_sixteen_bit_gray_keeps_its_middle_tones(tmp_path: Path) -> None:
    values = np.array([[0, 0x4000, 0x8000, 0xFFFF]], dtype=np.uint16)
    path = stored(tmp_path, encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(images.open_image(path))[0, :, 0].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = stored(tmp_path, encoded(gradient().convert(mode), "PNG"))
    assert images.open_image(path).mode == "RGB"


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    path = stored(tmp_path, encoded(gradient(), "JPEG", exif=exif, quality=95))
    image = images.open_image(path)
    assert image.size == (32, 48)
    bottom_left = gradient().getpixel((0, 31))
    assert isinstance(bottom_left, tuple)
    assert np.abs(np.subtract(corner(image), bottom_left)).max() < 20


def test_broken_exif_data_is_ignored(tmp_path: Path) -> None:
    content = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00garbage that is no TIFF header")
    assert images.open_image(stored(tmp_path, content)).size == (48, 32)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_used(tmp_path: Path, image_format: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    content = encoded(red, image_format, save_all=True, append_images=[blue], duration=40)
    assert corner(images.open_image(stored(tmp_path, content)))[0] > 240


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_max_side_limits_the_longer_side_and_never_enlarges(
    tmp_path: Path, image_format: str
) -> None:
    path = stored(tmp_path, encoded(gradient(480, 320), image_format))
    assert images.open_image(path, max_side=120).size == (120, 80)
    assert images.open_image(path, max_side=1000).size == (480, 320)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"Cannot read the image .*nowhere\.jpg: No such file"):
        images.open_image(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", r"it is a web page \(HTML\)"),
        (b'<?xml version="1.0"?><svg/>', r"it is a text document \(SVG or XML\)"),
        (b"plain words, nothing else", "it starts with b'plain words,'"),
        (b"\xff\xd8\xff\xe0", "Download the image again or convert it"),
        (b"\x89PNG\r\n\x1a\n", "Download the image again or convert it"),
    ],
)
def test_content_that_is_not_an_image_is_described(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        images.open_image(stored(tmp_path, content))


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "EPS"])
def test_other_formats_are_an_error(tmp_path: Path, image_format: str) -> None:
    with pytest.raises(ImageError, match="is not a JPEG, PNG, WEBP, GIF, BMP, TIFF or AVIF image"):
        images.open_image(stored(tmp_path, encoded(gradient(), image_format)))


@pytest.mark.parametrize("image_format", ["BMP", "TIFF", "AVIF"])
def test_fewer_formats_are_accepted_from_the_network(image_format: str) -> None:
    content = encoded(gradient(), image_format)
    with pytest.raises(ImageError, match="upload is not a JPEG, PNG, WEBP or GIF image"):
        images.decode_image(content, name="upload", formats=images.WEB_FORMATS)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_an_error(tmp_path: Path, image_format: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, image_format)
    with pytest.raises(ImageError, match=r"truncated or malformed|Download the image again"):
        images.open_image(stored(tmp_path, content[: int(len(content) * share)]))


def png_with_header_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize("side", [7_000, 10_000])
def test_pixels_are_limited_by_the_header_before_decoding(tmp_path: Path, side: int) -> None:
    path = stored(tmp_path, png_with_header_size(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=f"{side} x {side} pixels; the limit is 40,000,000"):
            images.open_image(path)


def test_a_decompression_bomb_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a decompression bomb"):
        images.open_image(stored(tmp_path, png_with_header_size(60_000, 60_000)))


def test_limits_are_configurable(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(gradient(), "PNG"))
    with pytest.raises(ImageError, match=f"has {path.stat().st_size} bytes; the limit is 10"):
        images.read_image(path, max_bytes=10)
    content = images.read_image(path, max_bytes=path.stat().st_size)
    with pytest.raises(ImageError, match=r"it has 48 x 32 pixels; the limit is 1,535"):
        images.decode_image(content, name="it", max_pixels=48 * 32 - 1)
    assert images.decode_image(content, name="it", max_pixels=48 * 32).size == (48, 32)


def test_folders_and_pipes_are_an_error_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ImageError, match="is a folder or a device"):
            images.open_image(path)


def test_an_invalid_path_is_an_image_error() -> None:
    with pytest.raises(ImageError, match=r"null (byte|character)"):
        images.open_image(Path("cover\0.jpg"))


def test_threads_that_open_images_keep_the_warning_filters(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(gradient(), "PNG"))
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(images.open_image, [path] * 200))
    assert list(warnings.filters) == before


@settings(max_examples=150, derandomize=True)
@given(st.data())
def test_a_malformed_file_opens_or_is_an_image_error(data: st.DataObject) -> None:
    image_format = data.draw(st.sampled_from(images.FORMATS))
    content = bytearray(encoded(gradient(), image_format))
    rng = random.Random(data.draw(st.integers(0, 10**9)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    try:
        opened = images.decode_image(bytes(content), name="it", max_pixels=10**6)
    except ImageError as error:
        assert str(error).startswith("it ")  # noqa: PT017 - both results are right
    else:
        assert opened.mode == "RGB"


def test_image_status_distinguishes_three_cases(tmp_path: Path) -> None:
    good = encoded(gradient(480, 320), "JPEG")
    assert images.image_status(stored(tmp_path, good)) == images.ImageStatus("ok")
    broken = images.image_status(stored(tmp_path, good[: len(good) // 2], "broken"))
    assert broken.status == "unreadable"
    assert "truncated or malformed" in broken.reason
    absent = images.image_status(tmp_path / "absent")
    assert absent.status == "missing"
    assert "No such file" in absent.reason
    assert images.image_status(None).status == "missing"


def test_image_status_follows_changes_of_the_file(tmp_path: Path) -> None:
    content = encoded(gradient(), "PNG")
    path = stored(tmp_path, content)
    assert images.image_status(path).status == "ok"
    stored(tmp_path, content[:60])
    assert images.image_status(path).status == "unreadable"
    stored(tmp_path, content)
    assert images.image_status(path).status == "ok"


def test_a_stored_image_must_have_the_hash_in_its_name(tmp_path: Path) -> None:
    content = encoded(gradient(), "PNG")
    path = stored(tmp_path, content, image_name(content, "PNG"))
    assert images.open_image(path).size == (48, 32)
    other = encoded(gradient().rotate(90), "PNG")
    stored(tmp_path, other, path.name)
    with pytest.raises(ImageError, match="is damaged: its content differs from what was stored"):
        images.open_image(path)
    assert images.image_status(path).status == "unreadable"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2100, 10), (1024, 52)),
        ((10, 2100), (52, 1024)),
        ((50, 1), (50, 3)),
        ((40, 2), (40, 2)),
        ((900_000, 1), (1024, 52)),
    ],
)
def test_extremely_long_images_get_white_margins(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = images.open_image(stored(tmp_path, encoded(Image.new("RGB", size, "red"), "PNG")))
    assert image.size == expected
    middle = image.getpixel(((expected[0] - 1) // 2, (expected[1] - 1) // 2))
    assert middle == (255, 0, 0)
    if expected != size:
        assert corner(image) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "I;16"])
@pytest.mark.parametrize("max_side", [None, 700, 90])
def test_large_images_are_converted_in_bands(
    tmp_path: Path, mode: str, max_side: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = gradient(901, 607)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(64)
    else:
        image = image.convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(gradient(901, 607).convert("L"))
    path = stored(tmp_path, encoded(image, "TIFF"))
    whole = np.asarray(images.open_image(path, max_side=max_side)).astype(int)
    monkeypatch.setattr(images, "_BAND", 5_000)
    bands = np.asarray(images.open_image(path, max_side=max_side)).astype(int)
    assert bands.shape == whole.shape
    assert np.abs(bands - whole).max() <= 1


def test_large_images_are_decoded_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    convert = images._to_rgb

    def slow(image: Image.Image, max_side: int | None) -> Image.Image:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return convert(image, max_side)

    monkeypatch.setattr(images, "_to_rgb", slow)
    monkeypatch.setattr(images, "_LARGE", 1_000)
    path = stored(tmp_path, encoded(gradient(), "PNG"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(images.open_image, [path] * 8))
    assert most == 1


def test_content_hash_depends_on_the_bytes_alone(tmp_path: Path) -> None:
    first, same = stored(tmp_path, b"abc", "1"), stored(tmp_path, b"abc", "2")
    assert images.content_hash(first) == images.content_hash(same)
    assert images.content_hash(first).startswith("ba7816bf")
    with pytest.raises(ImageError, match="No such file"):
        images.content_hash(tmp_path / "absent")


def test_thumbnail_is_a_small_jpeg_that_decodes(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(gradient(480, 320), "PNG"))
    url = images.thumbnail_data_url(path, 96)
    scheme, _, payload = url.partition(",")
    assert scheme == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(payload))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (96, 64))
