"""Images of a run: byte-equal copies, limits, allowed folders, and paths from tables of items."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mllm_msr.config.settings import ImagesSettings
from mllm_msr.data.image_columns import image_lists, with_images
from mllm_msr.data.image_store import (
    allowed_folders,
    drop_unreadable_images,
    resolve_images,
    store_images,
)
from mllm_msr.data.images import open_image
from mllm_msr.errors import DamagedFileError
from mllm_msr.tables import ITEMS


def items(*paths: object) -> pl.DataFrame:
    rows = [(f"i{n}", "", "", path and str(path)) for n, path in enumerate(paths)]
    return pl.DataFrame(rows, schema=dict(ITEMS), orient="row")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def draw(path: Path, size: tuple[int, int] = (30, 20), **options: object) -> Path:
    """Write a gradient that depends on the name."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, np.full_like(x, 9 * len(path.name))], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)
    return path


def stored(
    run: Path, shop: Path, *paths: object, **settings: object
) -> tuple[list[str | None], dict[str, int]]:
    table = items(*paths)
    result, counts = store_images(
        table, run, ImagesSettings(**settings), allowed=allowed_folders(table, [shop])
    )
    return result["image"].to_list(), counts


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_images_within_the_limits_are_copied_byte_for_byte(
    run: Path, shop: Path, suffix: str
) -> None:
    path = draw(shop / f"a.{suffix}")
    (image,), counts = stored(run, shop, path)
    content = path.read_bytes()
    assert image == f"images/sha256-{hashlib.sha256(content).hexdigest()}.{suffix}"
    assert (run / image).read_bytes() == content
    assert counts["images_stored"] == 1
    assert counts["image_bytes"] == len(content)
    assert counts["images_reduced"] == 0


def test_equal_images_are_stored_once(run: Path, shop: Path) -> None:
    first = draw(shop / "a.png")
    (shop / "b.png").write_bytes(first.read_bytes())
    names, counts = stored(run, shop, first, shop / "b.png", first, None)
    assert names == [names[0]] * 3 + [None]
    assert counts["images_stored"] == 1
    assert len(list((run / "images").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "image_format"),
    [("a.jpg", "JPEG"), ("a.webp", "JPEG"), ("a.avif", "JPEG"), ("a.png", "PNG"), ("a.tif", "PNG")],
)
def test_larger_images_are_reduced_once(
    run: Path, shop: Path, name: str, image_format: str
) -> None:
    path = draw(shop / name, (300, 150))
    (image,), counts = stored(run, shop, path, max_side=60)
    with Image.open(run / image) as found:
        assert (found.format, found.size) == (image_format, (60, 30))
    assert counts["images_reduced"] == 1
    difference = np.asarray(open_image(run / image)).astype(int) - np.asarray(
        open_image(path, max_side=60)
    )
    assert np.abs(difference).mean() < 8
    state = (run / image).stat()
    assert stored(run, shop, path, max_side=60)[0] == [image]
    assert (run / image).stat().st_mtime_ns == state.st_mtime_ns


def test_images_that_no_item_uses_any_more_are_removed(run: Path, shop: Path) -> None:
    first, second = draw(shop / "a.png"), draw(shop / "bc.png")
    stored(run, shop, first, second)
    (run / "images" / "notes.txt").write_text("kept")
    (image,), _ = stored(run, shop, second)
    assert {path.name for path in (run / "images").iterdir()} == {Path(image).name, "notes.txt"}


def test_formats_that_the_network_must_not_send_are_converted(run: Path, shop: Path) -> None:
    path = draw(shop / "a.bmp")
    (image,), _ = stored(run, shop, path)
    assert image.endswith(".png")
    assert np.array_equal(open_image(run / image), open_image(path))


def test_large_files_are_encoded_again(
    run: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(shop / "a.png", compress_level=0)
    monkeypatch.setattr("mllm_msr.data.images.MAX_BYTES", path.stat().st_size - 1)
    (image,), _ = stored(run, shop, path, max_bytes=10_000)
    assert (run / image).stat().st_size < path.stat().st_size
    assert np.array_equal(open_image(run / image), Image.open(path))
    (none,), counts = stored(run, shop, path, max_bytes=1_000)
    assert none is None
    assert counts["images_unreadable"] == 1


def test_unusable_images_are_counted_and_shown(
    run: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = draw(shop / "a.png").read_bytes()
    (shop / "cut.png").write_bytes(content[: len(content) // 2])
    (shop / "empty.png").write_bytes(b"")
    (shop / "folder.png").mkdir()
    os.mkfifo(shop / "pipe.png")
    names, counts = stored(
        run, shop,
        *(shop / f"{name}.png" for name in ("a", "cut", "empty", "folder", "pipe", "absent")),
    )  # fmt: skip
    assert [name is None for name in names] == [False, True, True, True, True, True]
    assert (counts["images_unreadable"], counts["images_missing"]) == (4, 1)
    assert "Item i1 is used without its image:" in caplog.text
    assert "truncated or malformed" in caplog.text


def test_a_damaged_copy_is_written_again(run: Path, shop: Path) -> None:
    path = draw(shop / "a.png")
    (image,), _ = stored(run, shop, path)
    (run / image).write_bytes(b"damaged")
    stored(run, shop, path)
    assert (run / image).read_bytes() == path.read_bytes()


def test_images_outside_the_dataset_are_not_read(run: Path, shop: Path, tmp_path: Path) -> None:
    secret = draw(tmp_path / "secret.png")
    (shop / "link.png").symlink_to(secret)
    (shop / "loop.png").symlink_to(shop / "loop.png")
    tricky = (secret, shop / ".." / "secret.png", shop / "link.png", shop / "loop.png")
    for store in (True, False):
        names, counts = stored(run, shop, *tricky, store=store)
        assert names == [None] * 4
        assert counts["images_unreadable"] == 4
    assert not (run / "images").exists()


def test_a_folder_of_the_dataset_may_be_a_link(run: Path, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    draw(tmp_path / "large" / "a.png")
    (shop / "images").symlink_to(tmp_path / "large")
    names, _ = stored(run, shop, shop / "images" / "a.png")
    assert names[0] is not None


def test_a_dataset_without_a_folder_allows_the_folders_of_its_images(tmp_path: Path) -> None:
    table = items(draw(tmp_path / "a.png"), None)
    assert allowed_folders(table, [None]) == [tmp_path]


def test_images_stay_in_place_without_a_store(run: Path, shop: Path) -> None:
    path = draw(shop / "a.png")
    names, counts = stored(run, shop, path, shop / "absent.png", store=False)
    assert names == [str(path), None]
    assert (counts["images_stored"], counts["images_missing"]) == (0, 1)
    assert not (run / "images").exists()
    table = items(path)
    assert resolve_images(table, run, allowed=[str(shop)]).equals(table)
    # The file is replaced by a link after the run has been prepared.
    path.rename(shop.parent / "elsewhere.png")
    path.symlink_to(shop.parent / "elsewhere.png")
    assert resolve_images(table, run, allowed=[str(shop)])["image"].to_list() == [None]


def test_downloads_become_links(run: Path, shop: Path) -> None:
    (run / "cache" / "downloads").mkdir(parents=True)
    path = draw(run / "cache" / "downloads" / "a.png")
    (image,), _ = stored(run, shop, path, store=False)
    assert (run / image).samefile(path)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "config.yaml",
        "images/a.png",
        "images/../config.yaml",
        f"images/../images/sha256-{'0' * 64}.png",
        f"images/sha256-{'0' * 64}.svg",
        f"images/sha256-{'0' * 64}.png\n",
        "{shop}/../secret.png",
        "{shop}x/a.png",
    ],
)
def test_paths_outside_the_run_and_the_dataset_are_rejected(
    run: Path, shop: Path, path: str
) -> None:
    table = items(None, path.format(shop=shop))
    with pytest.raises(DamagedFileError, match="neither stored in the run folder"):
        resolve_images(table, run, allowed=[str(shop)])


def test_stored_images_are_resolved_in_the_run_folder(run: Path) -> None:
    name = f"images/sha256-{'0' * 64}.png"
    assert resolve_images(items(name, None), run)["image"].to_list() == [f"{run}/{name}", None]


def test_only_images_of_the_given_items_are_checked(shop: Path) -> None:
    table = items(draw(shop / "a.png"), shop / "absent.png", shop / "other.png", None)
    readable, problems = drop_unreadable_images(table, pl.Series(["i0", "i1", "i3", "i1"]))
    assert readable["image"].to_list() == [str(shop / "a.png"), None, str(shop / "other.png"), None]
    assert list(problems) == ["i1"]
    assert "No such file" in problems["i1"]


def test_of_several_images_the_usable_ones_are_stored(
    run: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [draw(shop / name) for name in ("a.png", "bc.png", "def.png")]
    (shop / "copy.png").write_bytes(good[0].read_bytes())
    (shop / "broken.png").write_bytes(b"no image")
    listed = [
        [good[0], good[1]],
        [shop / "absent.png", good[2], shop / "broken.png", good[0]],
        [shop / "broken.png", shop / "absent.png"],
        [good[0], shop / "copy.png"],
        [],
    ]
    table = with_images(
        items(*[None] * 5), pl.Series([[str(path) for path in paths] for paths in listed])
    )
    result, counts = store_images(table, run, ImagesSettings(), allowed=[shop])
    names = [f"images/sha256-{hashlib.sha256(p.read_bytes()).hexdigest()}.png" for p in good]
    expected = [[names[0], names[1]], [names[2], names[0]], [], [names[0]], []]
    assert image_lists(result).to_list() == expected
    assert (counts["images_stored"], counts["images_incomplete"]) == (3, 1)
    assert (counts["images_missing"], counts["images_unreadable"]) == (0, 1)
    assert "Item i1 is used without one of its images: " in caplog.text
    assert sorted(path.name for path in (run / "images").iterdir()) == sorted(
        name.removeprefix("images/") for name in names
    )
    resolved = resolve_images(result, run)
    assert image_lists(resolved)[1].to_list() == [f"{run}/{names[2]}", f"{run}/{names[0]}"]
    (run / names[2]).write_bytes(b"damaged")
    readable, problems = drop_unreadable_images(resolved, pl.Series(["i0", "i1"]))
    assert image_lists(readable).to_list()[:2] == [
        [f"{run}/{n}" for n in names[:2]],
        [f"{run}/{names[0]}"],
    ]
    assert list(problems) == ["i1"]


def test_further_images_outside_the_run_and_the_dataset_are_rejected(run: Path, shop: Path) -> None:
    path = str(draw(shop / "a.png"))
    table = with_images(items(path), pl.Series([[path, "/etc/hostname"]]))
    with pytest.raises(DamagedFileError, match="the image '/etc/hostname'"):
        resolve_images(table, run, allowed=[str(shop)])
    assert allowed_folders(table, [None]) == [Path("/etc"), shop]
