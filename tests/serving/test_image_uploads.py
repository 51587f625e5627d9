"""Tests for uploaded images and thumbnails: sizes, metadata, atomic writes, full disks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from mllm_msr.errors import ImageError, RunFolderError
from mllm_msr.serving.image_uploads import store_images, thumbnail, to_png


def encoded(size: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "stored"), [((1024, 512), (512, 256)), ((100, 40), (100, 40))], ids=["large", "small"]
)
def test_uploaded_image_becomes_a_png_of_limited_size(
    size: tuple[int, int], stored: tuple[int, int]
) -> None:
    with Image.open(
        io.BytesIO(to_png(encoded(size, format="JPEG"), "x", max_pixels=10**6))
    ) as image:
        assert (image.format, image.size) == ("PNG", stored)


def test_metadata_of_an_image_is_removed(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "taken at home")
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    for content in (
        encoded((10, 10), format="PNG", pnginfo=notes, exif=exif),
        encoded((10, 10), format="JPEG", exif=exif),
    ):
        assert b"taken at home" in content
        assert b"taken at home" not in to_png(content, "x", max_pixels=100)
        path = tmp_path / "image"
        path.write_bytes(content)
        assert b"taken at home" not in thumbnail(path, max_pixels=100)


def test_error_names_the_item() -> None:
    with pytest.raises(ImageError, match=r"The image of 'x'.*HTML"):
        to_png(b"<html></html>", "x", max_pixels=100)


def test_images_with_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    content = encoded((20, 10), format="PNG")
    (tmp_path / "image.png").write_bytes(content)
    for convert in (
        lambda: to_png(content, "x", max_pixels=199),
        lambda: thumbnail(tmp_path / "image.png", max_pixels=199),
    ):
        with pytest.raises(ImageError, match=r"20 x 10 pixels; the limit is 199"):
            convert()
    assert to_png(content, "x", max_pixels=200)


def test_only_formats_of_the_web_are_accepted() -> None:
    with pytest.raises(ImageError, match=r"is not a JPEG, PNG, WEBP or GIF image"):
        to_png(encoded((10, 10), format="TIFF"), "x", max_pixels=100)


def test_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (10, 10), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(to_png(buffer.getvalue(), "x", max_pixels=100))) as image:
        assert image.getpixel((5, 5)) == (255, 0, 0)


def test_image_is_stored_under_its_hash_and_replaced_if_damaged(
    tmp_path: Path,
) -> None:
    png = encoded((10, 10), format="PNG")
    folder = tmp_path / "images"
    assert store_images(folder, "abc", []) == []
    (path,) = store_images(folder, "abc", [png])
    assert path == folder / "abc.png"
    path.write_bytes(png[:-1])
    assert store_images(folder, "abc", [png]) == [path]
    assert path.read_bytes() == png
    written = path.stat().st_mtime_ns
    store_images(folder, "abc", [png])
    assert path.stat().st_mtime_ns == written
    assert list(folder.iterdir()) == [path]


def test_images_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = encoded((10, 10), format="PNG")
    (path,) = store_images(tmp_path, "abc", [png[:-1]])
    seen = []
    write_bytes = Path.write_bytes

    def write_in_two_parts(self: Path, content: bytes) -> int:
        written = write_bytes(self, content[:20])
        seen.append(path.read_bytes())
        return written + write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_in_two_parts)
    store_images(tmp_path, "abc", [png])
    assert seen == [png[:-1]]
    assert path.read_bytes() == png


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"Cannot write .*file.*Check the folder"):
        store_images(tmp_path / "file" / "images", "abc", [b"png"])
