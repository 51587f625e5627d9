"""Images of a run: copies in the run folder, and the only way from a table of items to their files.

The stage `prepare` copies the items' images to `images/` in the run folder, so that the run can be
moved, pushed and served elsewhere. A file is copied byte for byte if it is within the limits, and
otherwise reduced and encoded once. Its name is the hash of its content: equal images are stored
once, and `data/images.py` verifies an image whenever it reads it.

With `images.store=false`, images stay in the dataset's folder, which is recorded in the run.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.config.settings import ImagesSettings
from mllm_msr.data import images
from mllm_msr.data.image_columns import image_lists, with_images
from mllm_msr.errors import DamagedFileError, ImageError
from mllm_msr.storage import atomic, layout
from mllm_msr.storage.image_names import NAME_PATTERN, image_name

logger = logging.getLogger(__name__)

_MAX_WARNINGS: Final = 5
_THREADS: Final = 4
_JPEG_QUALITY: Final = 95
_STORED: Final = f"^{layout.IMAGES}/{NAME_PATTERN}$"
_LOSSY: Final = frozenset({"JPEG", "WEBP", "AVIF"})  # sources that are encoded as JPEG again


@dataclass(frozen=True, slots=True)
class _Stored:
    """Result of one file: the value of the column `image`, or why there is none."""

    image: str | None
    status: images.Status = "ok"
    reason: str = ""
    n_bytes: int = 0
    is_reduced: bool = False


def allowed_folders(items: pl.DataFrame, folders: Iterable[Path | str | None]) -> list[Path]:
    """Return the folders from which a dataset's images may be read, as absolute real paths.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        folders: Folders that the user has set, such as `data.path`. Folders directly inside them
            may be links to folders elsewhere. If none is given, the images determine the folders.
    """
    chosen = [Path(folder) for folder in folders if folder is not None]
    if not chosen:
        parents = {Path(path).parent for path in image_lists(items).explode().drop_nulls()}
        return sorted({parent.resolve() for parent in parents})
    linked = (
        path
        for folder in chosen
        if folder.is_dir()
        for path in folder.iterdir()
        if path.is_symlink() and path.is_dir()
    )
    return sorted({path.resolve() for path in (*chosen, *linked)})


def store_images(
    items: pl.DataFrame,
    run_folder: Path,
    settings: ImagesSettings,
    *,
    allowed: Collection[Path],
    reads_images: bool = True,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Check the images of items and copy them into the run folder.

    Files that are already stored are kept, and images that no item uses any more are removed.
    Downloaded images are always copied (by a link), since they belong to the run.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        run_folder: The run folder, as an absolute path.
        settings: The section `images`.
        allowed: Folders that may contain images, see `allowed_folders`.
        reads_images: Whether a model reads images, so that missing ones are warnings.

    Returns:
        The items with usable values of `image`: relative to the run folder if the image was copied,
        the real path with `images.store=false`, and null if the image is missing or unreadable; of
        several images, the usable ones remain. And the counts `images_missing`,
        `images_unreadable` (items without an image), `images_incomplete` (items that lack some
        images, if there are any), `images_reduced`, `images_stored` (files) and `image_bytes`.

    Raises:
        RunFolderError: The disk is full, or the folder is not writable.
    """
    store = _Store(run_folder, settings, allowed)
    images_of_items = image_lists(items)
    sources = images_of_items.explode().drop_nulls().unique(maintain_order=True).to_list()
    with ThreadPoolExecutor(_THREADS) as pool:
        results = dict(zip(sources, pool.map(store.add, sources), strict=True))
    failed = {"missing": 0, "unreadable": 0, "incomplete": 0}
    level = logging.WARNING if reads_images else logging.INFO
    names: list[list[str]] = []
    for item_id, paths in zip(items["item_id"], images_of_items.to_list(), strict=True):
        found = [results[path] for path in paths]
        # Equal images have the same name.
        good = list(dict.fromkeys(one.image for one in found if one.image is not None))
        problems = [one for one in found if one.image is None]
        names.append(good)
        if problems:
            if sum(failed.values()) < _MAX_WARNINGS:
                what = "one of its images" if good else "its image"
                reason = problems[0].reason
                logger.log(level, "Item %s is used without %s: %s", item_id, what, reason)
            failed["incomplete" if good else problems[0].status] += 1
    stored = {found.image: found.n_bytes for found in results.values() if found.n_bytes}
    for path in (run_folder / layout.IMAGES).glob("sha256-*"):
        if path.is_file() and f"{layout.IMAGES}/{path.name}" not in stored:
            path.unlink()
    return with_images(items, pl.Series(names, dtype=pl.List(pl.String))), {
        **{f"images_{status}": n for status, n in failed.items() if n or status != "incomplete"},
        "images_reduced": sum(found.is_reduced for found in results.values()),
        "images_stored": len(stored),
        "image_bytes": sum(stored.values()),
    }


def resolve_images(
    items: pl.DataFrame, run_folder: Path, *, allowed: Sequence[str] = ()
) -> pl.DataFrame:
    """Return the items of a run with absolute image paths.

    Args:
        items: `tables.ITEMS` as `store_images` returns them.
        run_folder: The run folder, as an absolute path.
        allowed: Folders outside the run folder from which the run may read images.

    Returns:
        The items. An image outside the run folder is null if it has become a link to another file.

    Raises:
        DamagedFileError: A path leads elsewhere. The message names the first.
    """
    paths = image_lists(items)
    each = paths.explode().drop_nulls().unique(maintain_order=True)
    outside = each.filter(~each.str.contains(_STORED)).to_list()
    for path in outside:
        if ".." in Path(path).parts or not any(Path(path).is_relative_to(one) for one in allowed):
            raise DamagedFileError(
                f"The run's table of items contains the image {path!r}, which is neither stored in "
                f"the run folder {run_folder} nor in the folder of the run's dataset. Prepare the "
                "run again with --force."
            )
    moved = [path for path in outside if os.path.realpath(path) != path]
    one = pl.element()
    absolute = pl.when(one.str.contains(_STORED)).then(pl.lit(f"{run_folder}/") + one)
    return with_images(items, paths.list.eval(absolute.when(~one.is_in(moved)).then(one)))


def drop_unreadable_images(
    items: pl.DataFrame, item_ids: pl.Series
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return items without the images that cannot be opened, so that they are used without them.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        item_ids: Items whose images are checked.

    Returns:
        The items without the images that cannot be opened, and the first problem by item id.
    """
    wanted = items.filter(pl.col("item_id").is_in(item_ids.unique().implode()))
    problems: dict[str, str] = {}
    unreadable: list[str] = []
    for item_id, paths in zip(wanted["item_id"], image_lists(wanted).to_list(), strict=True):
        for path in paths:
            found = images.image_status(Path(path))
            if found.status != "ok":
                problems.setdefault(item_id, found.reason)
                unreadable.append(path)
    if not problems:
        return items, problems
    one = pl.element()
    readable = image_lists(items).list.eval(pl.when(~one.is_in(unreadable)).then(one))
    return with_images(items, readable), problems


class _Store:
    """Writer of the images of a run; `add` may be called in several threads."""

    def __init__(
        self, run_folder: Path, settings: ImagesSettings, allowed: Collection[Path]
    ) -> None:
        self._run_folder = run_folder
        self._downloads = run_folder / layout.DOWNLOADS
        self._settings = settings
        self._allowed = allowed

    def add(self, source: str) -> _Stored:
        """Check one image and store it."""
        path = Path(source)
        is_download = path.is_relative_to(self._downloads)
        try:
            if not is_download:
                self._require_allowed(path)
            if not (is_download or self._settings.store):
                images.open_image(path, max_side=1)
                return _Stored(os.path.realpath(path))
            content = images.read_image(path, max_bytes=self._settings.max_bytes)
            kept, image_format = self._fit(content, source)
        except ImageError as error:
            is_absent = isinstance(error.__cause__, FileNotFoundError)
            return _Stored(None, "missing" if is_absent else "unreadable", str(error))
        name = f"{layout.IMAGES}/{image_name(kept, image_format)}"
        is_same = kept is content
        _write(self._run_folder / name, kept, source=path if is_download and is_same else None)
        return _Stored(name, n_bytes=len(kept), is_reduced=not is_same)

    def _require_allowed(self, path: Path) -> None:
        try:
            real = path.resolve()
        except (OSError, ValueError, RuntimeError):  # a NUL byte, or a loop of links
            return  # reading it reports the problem
        if not any(real.is_relative_to(folder) for folder in self._allowed):
            raise ImageError(
                f"{path} is not in the folder of the dataset, or is a link that leaves it. Copy "
                "the file into the folder."
            )

    def _fit(self, content: bytes, name: str) -> tuple[bytes, str]:
        """Return an image within the limits and its format; the same bytes if they are."""
        header = images.read_header(content, name=name, formats=images.FORMATS)
        image_format, side = header.format or "", max(header.size)
        max_side = self._settings.max_side
        is_within = side <= max_side and len(content) <= images.MAX_BYTES
        if is_within and image_format in images.WEB_FORMATS:
            images.decode_image(content, name=name, max_side=1)  # detects truncated files
            return content, image_format
        image = images.decode_image(content, name=name, max_side=max_side)
        buffer = io.BytesIO()
        if image_format in _LOSSY:
            image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
            return buffer.getvalue(), "JPEG"
        image.save(buffer, "PNG")
        return buffer.getvalue(), "PNG"


def _write(target: Path, content: bytes, *, source: Path | None) -> None:
    """Write a stored image unless it is intact.

    Args:
        target: Path of the stored image.
        content: Its content.
        source: File with the same content that may be linked.
    """
    with contextlib.suppress(ImageError):
        images.read_image(target)
        return
    if source is not None:
        atomic.link_or_copy(source, target)
        return
    with atomic.replace_file(target) as temporary:
        temporary.write_bytes(content)
