"""Images that are written anew: sizes, names, what is not passed on, no room."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from mllm_msr.errors import ImageError, RunFolderError
from mllm_msr.serving.image_uploads import as_png, as_shown, keep_image


def encoded(size: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "kept"), [((1024, 512), (512, 256)), ((100, 40), (100, 40))], ids=["large", "small"]
)
def test_a_clients_image_becomes_a_png_of_bounded_size(
    size: tuple[int, int], kept: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(as_png(encoded(size, format="JPEG"), "x"))) as image:
        assert (image.format, image.size) == ("PNG", kept)


def test_what_a_image_says_besides_its_pixels_is_not_kept(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "taken at home")
    place = Image.Exif()
    place[0x010E] = "taken at home"
    for content in (
        encoded((10, 10), format="PNG", pnginfo=notes, exif=place),
        encoded((10, 10), format="JPEG", exif=place),
    ):
        assert b"taken at home" in content
        assert b"taken at home" not in as_png(content, "x")
        path = tmp_path / "image"
        path.write_bytes(content)
        assert b"taken at home" not in as_shown(path)


def test_what_is_no_image_is_named_by_its_item() -> None:
    with pytest.raises(ImageError, match=r"the image of 'x'.*HTML"):
        as_png(b"<html></html>", "x")


def test_a_image_is_kept_under_its_hash_and_made_again_where_it_is_damaged(
    tmp_path: Path,
) -> None:
    png = encoded((10, 10), format="PNG")
    folder = tmp_path / "images"
    assert keep_image(folder, "abc", None) is None
    path = keep_image(folder, "abc", png)
    assert path == folder / "abc.png"
    path.write_bytes(png[:-1])
    assert keep_image(folder, "abc", png) == path
    assert path.read_bytes() == png
    kept_since = path.stat().st_mtime_ns
    keep_image(folder, "abc", png)
    assert path.stat().st_mtime_ns == kept_since
    assert list(folder.iterdir()) == [path]


def test_a_reader_never_meets_half_a_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = encoded((10, 10), format="PNG")
    path = keep_image(tmp_path, "abc", png[:-1])
    assert path is not None
    seen = []
    write_bytes = Path.write_bytes

    def watched(self: Path, content: bytes) -> int:
        written = write_bytes(self, content[:20])
        seen.append(path.read_bytes())
        return written + write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", watched)
    keep_image(tmp_path, "abc", png)
    assert seen == [png[:-1]]
    assert path.read_bytes() == png


def test_no_room_for_a_image_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"file.*check the folder"):
        keep_image(tmp_path / "file" / "images", "abc", b"png")
