"""MovieLens (Harper and Konstan 2015): film ratings of all releases.

- `ratings.csv` and `movies.csv` of the small and the newer releases; `movies.csv` may have the
  additional columns `year`, `genres` and `user_tags`.
- `ratings.dat` and `movies.dat` of ML-1M and ML-10M.
- `u.data` and `u.item` of ML-100K.
- `images/<movieId>.jpg`: posters; optional.

Timestamps are the times of the ratings, not of watching.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final, final

import polars as pl

from mllm_msr.data.image_files import find_images
from mllm_msr.data.reading.records import OnBadRows, ReadOptions
from mllm_msr.datasets._interactions import InteractionFormat, Interactions, read_interactions
from mllm_msr.datasets._items import to_items
from mllm_msr.datasets._movielens_films import read_films
from mllm_msr.datasets._source_files import require_file, require_folder
from mllm_msr.interfaces import Dataset, RawData

# Files of ratings, and the films that belong to them.
_FILMS: Final = {"ratings.csv": "movies.csv", "ratings.dat": "movies.dat", "u.data": "u.item"}
_FORMAT: Final = InteractionFormat("userId", "movieId", "timestamp", "s", rating="rating")


@final
class MovieLens(Dataset):
    """A MovieLens release in a folder.

    Args:
        path: Folder with `ratings.csv` and `movies.csv`, `ratings.dat` and `movies.dat`, or
            `u.data` and `u.item`.
        min_rating: Interactions with a lower rating are removed; 0 keeps all.
        encoding: Encoding of the files; detected by default.
        on_bad_rows: "error" stops if a row cannot be used; "drop" leaves such rows
            out and counts them.
    """

    def __init__(
        self,
        *,
        path: Path,
        min_rating: float = 0.0,
        encoding: str | None = None,
        on_bad_rows: OnBadRows = "error",
    ) -> None:
        self.path = Path(path)
        self.min_rating = min_rating
        self.options = ReadOptions(encoding=encoding, on_bad_rows=on_bad_rows)

    def load(self) -> RawData:
        """Read the files.

        Raises:
            DataError: A file is missing, unreadable or not in the expected format.
        """
        folder = require_folder(self.path)
        ratings = require_file(folder, *_FILMS, content="ratings")
        movies = require_file(folder, _FILMS[ratings.name], content="films")
        films, source = read_films(movies, self.options)
        images = find_images(films["item_id"].to_list(), folder / "images")
        interactions = self._read_ratings(ratings, self.options)
        return RawData(
            interactions=interactions.frame,
            items=to_items(films.with_columns(images.columns), movies),
            item_type="film",
            sources=(interactions.source, source),
            images=images.source,
        )

    def read_interactions(self, file: Path) -> pl.LazyFrame:
        """Read new ratings from a file like `ratings.csv`, `ratings.dat` or `u.data`.

        Raises:
            DataError: The file is missing, unreadable or not in the expected format.
        """
        return self._read_ratings(file, self.options.without_settings()).frame

    def _read_ratings(self, path: Path, options: ReadOptions) -> Interactions:
        form = dataclasses.replace(_FORMAT, min_rating=self.min_rating)
        if path.suffix == ".dat":
            # The separator is "::", of which readers support one character: every second column
            # is empty.
            names = ["userId", "_1", "movieId", "_2", "rating", "_3", "timestamp"]
            separator = ":"
        elif path.suffix == ".data":
            names = ["userId", "movieId", "rating", "timestamp"]
            separator = "\t"
        else:
            return read_interactions(path, form, options=options)
        options = dataclasses.replace(options, separator=separator)
        return read_interactions(path, form, options=options, names=names, quoted=False)
