"""Search for the image files of items: by the item's id, or by a column that names the files.

Names are compared in Unicode's normal form C, because some systems decompose the names of files.
The files of an item may be in subfolders, numbered, or in a folder with the item's id. Values of a
column come from other people: only files in the folders of the dataset are used, and links are
returned, not followed.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import polars as pl

from mllm_msr.types import SourceImages

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
# Images that cannot be read. They are found if there is no other, so that they are reported.
_OTHER_SUFFIXES: Final = frozenset({".heic", ".heif", ".svg", ".jxl", ".jp2", ".psd"})
_N_EXAMPLES: Final = 5

_WEB: Final = re.compile(r"(?:https?:)?//[^/]", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_WINDOWS_ROOT: Final = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)
# A number at the end of a name: "shirt_1", "shirt-02".
# The next value in a list of links or names, as some shops export all images of an item.
_NEXT_LINK: Final = re.compile(r"[\s,;|]+(?=(?:https?:)?//)", re.IGNORECASE)
_NEXT_NAME: Final = re.compile(r"[,;\n]")  # names of files may contain these
_NUMBERED: Final = re.compile(r"(.+)[_-][0-9]{1,2}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ItemImages:
    """Images of the rows of a table of items.

    Attributes:
        paths: Path of the first image of each row, null if there is none. A file that the table
            names but that does not exist keeps its path, so that it is reported as missing.
        more: Paths of the further images of each row, null if there are none.
        urls: Columns `item_id` and `url`: values of the column that are links, in their order.
        source: What was found.
    """

    paths: pl.Series
    more: pl.Series
    urls: pl.DataFrame
    source: SourceImages

    @property
    def columns(self) -> list[pl.Series]:
        """Return the columns of a table of items that contain images."""
        return [self.paths, self.more] if self.more.count() else [self.paths]


def find_images(
    ids: Sequence[str | None],
    folder: Path,
    *,
    names: Sequence[str | None] | None = None,
    root: Path | None = None,
) -> ItemImages:
    """Find the images of items.

    Args:
        ids: Id of each row.
        folder: Folder with image files, which need not exist.
        names: Value of the image column of each row: a path relative to `folder` or `root`, an
            absolute path in one of them, or a link. Several of these are separated by "|", or are
            the text of a list in JSON. Rows without a value are found by their id.
        root: Another folder with image files, such as that of the dataset.
    """
    files = _list_files(folder)
    by_id = match_names(files, [id_ for id_ in ids if id_ is not None])
    search = _ColumnSearch(files, folder, root)
    paths: list[list[str]] = []
    urls: list[tuple[str, str]] = []
    rejected: list[str] = []
    for id_, value in zip(ids, names or [None] * len(ids), strict=True):
        named: dict[str, None] = {}
        for name in search.split((value or "").strip()):
            if _WEB.match(name):
                # A link without a scheme has that of the page that contains it.
                urls.append((id_ or "", f"https:{name}" if name.startswith("//") else name))
            elif found := search.find(name):
                named[found] = None
            else:
                rejected.append(name)
        paths.append([*named] or [search.prefix + file for file in by_id.get(id_ or "", ())])
    used = {path.removeprefix(search.prefix) for one in paths for path in one}
    unlinked = [file for file in files if file not in used]
    return ItemImages(
        pl.Series("image", [one[0] if one else None for one in paths], pl.String),
        pl.Series("more_images", [one[1:] or None for one in paths], pl.List(pl.String)),
        pl.DataFrame(urls, {"item_id": pl.String, "url": pl.String}, orient="row"),
        SourceImages(
            folder=folder,
            n_files=len(files),
            n_linked=len(files) - len(unlinked),
            unlinked=tuple(unlinked[:_N_EXAMPLES]),
            n_rejected=len(rejected),
            rejected=tuple(dict.fromkeys(rejected))[:_N_EXAMPLES],
        ),
    )


def match_names(files: Iterable[str], ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find the files of each item by their names.

    For an item with the id `shirt`, these files are found, in this order:

    1. `shirt.jpg`, with any suffix in `SUFFIXES`, or none if the id has one. Characters of the id
       that a file name cannot contain are percent-encoded (`a%2Fb.jpg` for `a/b`), or are folders
       (`a/b.jpg`).
    2. `shirt_1.jpg` or `shirt-1.jpg`, with the smallest number of up to two digits.
    3. `NAME/shirt.jpg`: the file in any subfolder. Or `shirt/NAME.jpg`: the first file in a
       subfolder with the item's id. The one that finds more items is preferred.

    Further images are the files with other numbers, or the other files in the item's subfolder.

    Args:
        files: Paths relative to the folder of images, with "/", in the order of preference.
        ids: Ids of the items.

    Returns:
        The files of the items that have some, in order; of files that differ only in their suffix,
        the first one.
    """
    id_keys = {id_: _key(id_) for id_ in ids}
    wanted = set(id_keys.values())
    exact: dict[str, str] = {}
    numbered: defaultdict[str, dict[str, str]] = defaultdict(dict)  # files by name
    nested: defaultdict[str, list[str]] = defaultdict(list)
    in_folder: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        stem = _key(os.path.splitext(file)[0])  # noqa: PTH122 -- 10 times faster
        parent, _, name = stem.rpartition("/")
        for key in (*_spellings(stem), _key(file)):
            exact.setdefault(key, file)
        for key in _spellings(name):
            if parent:
                nested[key].append(file)
            if key not in wanted and (match := _NUMBERED.fullmatch(key)):
                numbered[match[1]].setdefault(name, file)
        for key in {*_spellings(parent), *_spellings(parent.rpartition("/")[2])} - {""}:
            in_folder[key].setdefault(name, file)
    # Files with the same name in several folders are probably those of several items.
    unique = {key: found for key, found in nested.items() if len(found) == 1}
    first = {key: found[:1] for key, found in nested.items()}
    n_unique, n_in_folder = len(wanted & unique.keys()), len(wanted & in_folder.keys())
    nested_first = n_unique >= n_in_folder
    folders = {key: list(found.values()) for key, found in in_folder.items()}
    numbers = {key: list(found.values()) for key, found in numbered.items()}
    whole = {key: [file, *numbers.get(key, ())] for key, file in exact.items()}
    layouts = (unique, folders) if nested_first else (folders, unique)
    matched: dict[str, tuple[str, ...]] = {}
    for layout in (whole, numbers, *layouts, first):
        for key in wanted - matched.keys():
            if key in layout:
                matched[key] = tuple(layout[key])
    return {id_: matched[key] for id_, key in id_keys.items() if key in matched}


class _ColumnSearch:
    """Search for the files that a column names.

    Args:
        files: Paths relative to `folder`, with "/".
        folder: Folder of the images.
        root: Another folder that paths may be relative to.
    """

    def __init__(self, files: Sequence[str], folder: Path, root: Path | None) -> None:
        # The folders are not normalized: with links of the file system, "x/.." may be any folder.
        folders = [path.absolute() for path in (folder, root) if path is not None]
        self._bases = [("", str(path)) for path in folders]
        if folders[0].is_relative_to(folders[-1]):
            # Paths may lead from the folder of the images to another one in `root`.
            inner = folders[0].relative_to(folders[-1])
            self._bases.append((f"{inner.as_posix()}/", str(folders[-1])))
        self.prefix = f"{folders[0]}/"
        roots = [f(path) for path in folders for f in (os.path.normpath, os.path.realpath)]
        self._roots = tuple(f"{path.rstrip('/')}/" for path in roots)
        # Other systems ignore case, and some tables omit the suffix. Later entries replace earlier.
        self._by_path: dict[str, str] = {}
        for file in reversed(files):
            key = _key(file).casefold()
            self._by_path[os.path.splitext(key)[0]] = file  # noqa: PTH122
        self._by_path |= {_key(file).casefold(): file for file in reversed(files)}

    def find(self, name: str) -> str | None:
        """Return the path of a file, also of one that does not exist; `None` if it is not allowed.

        A path is allowed if it is in one of the folders. The path is checked as it is written:
        links of the file system are followed.
        """
        found = self._find_file(name)
        if found is None and _is_path(name):
            return next(iter(self._in_folders(name.replace("\\", "/"))), None)
        return found

    def split(self, value: str) -> list[str]:
        """Return the names and links in a value of the column; names may contain separators."""
        listed = _as_list(value)
        if listed is not None:
            return [name for name in map(str.strip, listed) if name]
        if _WEB.match(value):
            links = _NEXT_LINK.split(value)
            # A link may contain "|", so only what exists is a file after it.
            link, *names = map(str.strip, links[-1].split("|"))
            found = names and all(map(self._find_file, names))
            return [*links[:-1], link, *names] if found else links
        if not value or self._find_file(value):
            return [value] if value else []
        if "|" in value:
            return [name for part in value.split("|") for name in self.split(part.strip())]
        parts = [part for part in map(str.strip, _NEXT_NAME.split(value)) if part]
        return parts if any(map(self._find_file, parts)) else [value]

    def _find_file(self, name: str) -> str | None:
        """Return the path of the file that a name stands for, if it exists and is allowed."""
        if not _is_path(name):
            return None
        # A backslash separates folders on some systems and belongs to the name on others.
        candidates = self._in_folders(name.replace("\\", "/"))
        for path in (*self._in_folders(name), *candidates):
            if os.path.isfile(path):  # noqa: PTH113
                return path
        for path in candidates:
            key = _key(path.removeprefix(self.prefix)).casefold()
            if key in self._by_path:
                return f"{self.prefix}{self._by_path[key]}"
        return None

    def _in_folders(self, name: str) -> list[str]:
        """Return the paths that a name stands for and that are in one of the folders."""
        if name.startswith("/"):
            path = os.path.normpath(name)
            return [path] if path.startswith(self._roots) else []
        paths = []
        for start, folder in self._bases:
            relative = os.path.normpath(start + name)
            if relative != ".." and not relative.startswith("../"):
                paths.append(f"{folder}/{relative}")
        return paths


def _is_path(name: str) -> bool:
    """Return whether a name is a path of this system."""
    return not (_SCHEME.match(name) or _WINDOWS_ROOT.match(name) or "\0" in name)


def _as_list(value: str) -> list[str] | None:
    """Return the elements of the text of a list, in JSON or as Python writes it; else `None`."""
    if not (value.startswith("[") and value.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parsed = parse(value)
            if isinstance(parsed, list):
                return [str(element) for element in parsed if element is not None]
    return None


def _list_files(folder: Path) -> list[str]:
    """Return the image files in a folder and its subfolders: readable ones and higher ones first.

    Hidden files and files whose name is not valid Unicode are left out.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        relative = os.path.relpath(parent, folder)
        start = "" if relative == "." else f"{relative}/"
        found += [
            start + name
            for name in names
            if name[0] != "." and _suffix(name) in SUFFIXES | _OTHER_SUFFIXES
        ]
    files = [file for file in found if _is_unicode(file)]
    return sorted(
        files,
        key=lambda file: (_suffix(file) not in SUFFIXES, file.count("/"), _natural_key(file)),
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 -- 10 times faster


def _natural_key(file: str) -> tuple[list[str | int], str]:
    """Return a key that sorts "2" before "10", and jpg before png."""
    stem = os.path.splitext(file)[0]  # noqa: PTH122
    parts: list[str | int] = list(re.split("([0-9]+)", stem))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, file


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _spellings(name: str) -> tuple[str, ...]:
    """Return a name, and the name without percent-encoding if it has any."""
    return (name, _key(unquote(name))) if "%" in name else (name,)
