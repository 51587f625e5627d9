"""Films of the MovieLens releases: `movies.csv`, `movies.dat` (1M, 10M) and `u.item` (100K).

The releases of 1M and 100K are encoded in Latin-1, that of 10M in UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.data.reading.reader import read_table
from mllm_msr.data.reading.records import Column, ReadOptions
from mllm_msr.data.reading.rows import BadRows, shown
from mllm_msr.data.reading.text import open_binary, wrap_file_errors
from mllm_msr.datasets._items import join_sentences
from mllm_msr.errors import DataError
from mllm_msr.types import SourceFile

_NO_GENRES: Final = ("(no genres listed)", "unknown")
# Order of the columns of `u.item` after the first five.
_GENRES_100K: Final = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_SCHEMA: Final = dict.fromkeys(("item_id", "title", "text"), pl.String())


def read_films(path: Path, options: ReadOptions) -> tuple[pl.DataFrame, SourceFile]:
    """Read the films of a release.

    Args:
        path: `movies.csv`, `movies.dat` or `u.item`.
        options: How to read it; UTF-8 and Latin-1 are detected in the last two.

    Returns:
        Columns `item_id`, `title` and `text`, and how the file was read.

    Raises:
        DataError: The file is damaged, a row is bad, or all are.
    """
    if path.suffix == ".csv":
        return _read_csv(path, options)
    is_100k = path.name == "u.item"
    lines, encoding = _read_lines(path, options.encoding)
    bad_rows = BadRows(path.name, options.on_bad_rows)
    rows: list[tuple[str, str, str]] = []
    for number, line in lines:
        film = _parse_100k(line) if is_100k else _parse_dat(line)
        if film is None:
            form = "movieId|title|...|genres" if is_100k else "movieId::title::genres"
            bad_rows.add(
                "not a film",
                f"Line {number} of {path.name} is {shown(line)}; expected {form}",
            )
        else:
            rows.append(film)
    bad_rows.finish(len(rows))
    source = SourceFile(
        path=path,
        content="items",
        format="MovieLens",
        encoding=encoding,
        separator="|" if is_100k else "::",
        n_rows=len(rows) + sum(bad_rows.counts.values()),
        dropped=bad_rows.counts,
    )
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row"), source


def _read_csv(path: Path, options: ReadOptions) -> tuple[pl.DataFrame, SourceFile]:
    columns = {
        "item_id": Column("movieId", "id"),
        "title": Column("title", "text"),
        "genres": Column("genres", "text", required=False),
        "user_tags": Column("user_tags", "text", required=False),
    }
    read = read_table(path, columns, options=options, content="items")
    films = read.frame.collect()
    texts = [
        _text((genres or "").split("|"), tags or "")
        for genres, tags in films["genres", "user_tags"].iter_rows()
    ]
    films = films.select("item_id", "title", text=pl.Series(texts, dtype=pl.String))
    return films, read.description


def _read_lines(path: Path, encoding: str | None) -> tuple[Iterator[tuple[int, str]], str]:
    """Return the numbers and texts of the lines that are not blank, and the encoding."""
    with wrap_file_errors(path), open_binary(path) as file:
        content = file.read()
    try:
        text = content.decode(encoding or "utf-8-sig")
    except UnicodeError as cause:
        if encoding is not None:
            raise DataError(
                f"{path.name} is not {encoding}: {cause}. Correct data.encoding, or leave it out."
            ) from cause
        encoding = "latin-1"
        text = content.decode(encoding)
    # Only line feeds end lines: titles in Latin-1 may contain 0x85, which `splitlines` splits at.
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return ((n, line) for n, line in enumerate(lines, start=1) if line.strip()), (
        encoding or "utf-8"
    ).upper()


def _parse_dat(line: str) -> tuple[str, str, str] | None:
    item_id, _, rest = line.partition("::")
    title, separator, genres = rest.rpartition("::")
    if not separator or not item_id.strip():
        return None
    return item_id.strip(), title, _text(genres.split("|"), "")


def _parse_100k(line: str) -> tuple[str, str, str] | None:
    fields = line.split("|")
    if len(fields) != 5 + len(_GENRES_100K) or not fields[0].strip():
        return None
    flags = zip(_GENRES_100K, fields[5:], strict=True)
    return fields[0].strip(), fields[1], _text([name for name, flag in flags if flag == "1"], "")


def _text(genres: list[str], tags: str) -> str:
    """Return genres and tags as two short sentences, without those that are empty."""
    genre_list = ", ".join(name for name in map(str.strip, genres) if name not in ("", *_NO_GENRES))
    tag_list = ", ".join(tag.strip() for tag in tags.split(";") if tag.strip())
    return join_sentences(
        [f"Genres: {genre_list}" if genre_list else "", f"Tags: {tag_list}" if tag_list else ""]
    )
