"""MovieLens (Harper and Konstan 2015): film ratings, as CSV files or as the `::` files of ML-1M.

- `ratings.csv` and `movies.csv` of the small and the newer releases; `movies.csv` may have the
  additional columns `year`, `genres` and `user_tags`.
- `ratings.dat` and `movies.dat` of ML-1M.
- `images/<movieId>.jpg`: posters; optional.

Timestamps are the times of the ratings, not of watching.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.data.image_files import find_images
from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.datasets._interactions import InteractionFormat, Interactions, read_interactions
from mllm_msr.datasets._items import join_sentences, to_items
from mllm_msr.datasets._readers import (
    require_columns,
    require_file,
    require_folder,
    scan_table,
    wrap_table_errors,
)
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

_NO_GENRES = "(no genres listed)"


@final
class MovieLens(Dataset):
    """A MovieLens release in a folder.

    Args:
        path: Folder with `ratings.csv` and `movies.csv`, or `ratings.dat` and `movies.dat`.
        min_rating: Interactions with a lower rating are removed; 0 keeps all.
    """

    def __init__(self, *, path: Path, min_rating: float = 0.0) -> None:
        self.path = Path(path)
        self.min_rating = min_rating

    def load(self) -> RawData:
        """Read the files.

        Raises:
            DataError: A file is missing, unreadable or not in the expected format.
        """
        folder = require_folder(self.path)
        ratings = require_file(folder, "ratings.csv", "ratings.dat", content="ratings")
        movies = require_file(folder, f"movies{ratings.suffix}", content="films")
        is_ml_1m = ratings.suffix == ".dat"
        films = _read_dat_films(movies) if is_ml_1m else _read_csv_films(movies)
        images = find_images(films["item_id"].to_list(), folder / "images")
        interactions = self._read_ratings(ratings)
        return RawData(
            interactions=interactions.frame,
            items=to_items(films.with_columns(images.paths), movies),
            item_type="film",
            images=images.source,
            sources=(interactions.source,),
        )

    def read_interactions(self, file: Path) -> pl.LazyFrame:
        """Read new ratings from a file like `ratings.csv`, or `ratings.dat`.

        Raises:
            DataError: The file is missing, unreadable or not in the expected format.
        """
        return self._read_ratings(file).frame

    def _read_ratings(self, path: Path) -> Interactions:
        form = InteractionFormat(
            user="userId",
            item="movieId",
            unit="s",
            rating="rating",
            min_rating=self.min_rating,
        )
        if path.suffix != ".dat":
            return read_interactions(path, form)
        # The separator is "::", of which readers support one character: every second column is
        # empty.
        names = ["userId", "_1", "movieId", "_2", "rating", "_3", "timestamp"]
        options = ReadOptions(separator=":")
        return read_interactions(path, form, options=options, names=names, quoted=False)


def _read_csv_films(path: Path) -> pl.DataFrame:
    """Read item id, title and text of the CSV files."""
    table = scan_table(path)
    present = require_columns(table, ("movieId", "title"), path)
    optional = {"genres": pl.lit(""), "user_tags": pl.lit("")}
    with wrap_table_errors(path):
        films = table.select(
            "movieId",
            "title",
            *(
                pl.col(name) if name in present else empty.alias(name)
                for name, empty in optional.items()
            ),
        ).collect()
    text = [_text(genres or "", tags or "") for genres, tags in films["genres", "user_tags"].rows()]
    return films.select(item_id="movieId", title="title", text=pl.Series(text, dtype=pl.String))


def _read_dat_films(path: Path) -> pl.DataFrame:
    """Read item id, title and text of ML-1M, which is encoded in Latin-1."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
        fields = line.split("::")
        if len(fields) != 3:
            raise DataError(
                f"Line {number} of {path.name} is {line!r}; expected movieId::title::genres. "
                "Download the file again."
            )
        rows.append((fields[0], fields[1], _text(fields[2], "")))
    return pl.DataFrame(
        rows, schema={"item_id": pl.String, "title": pl.String, "text": pl.String}, orient="row"
    )


def _text(genres: str, tags: str) -> str:
    """Return genres and tags as two short sentences, without those that are empty."""
    genre_list = "" if genres == _NO_GENRES else ", ".join(filter(None, genres.split("|")))
    tag_list = ", ".join(tag.strip() for tag in tags.split(";") if tag.strip())
    return join_sentences(
        [f"Genres: {genre_list}" if genre_list else "", f"Tags: {tag_list}" if tag_list else ""]
    )
