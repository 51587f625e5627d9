"""MovieLens: film ratings (Harper & Konstan 2015), the CSV releases and ML-1M's `::` files.

`ratings.csv` and `movies.csv` of the small and the later sets, with the optional columns `year`,
`genres` and `user_tags`; or `ratings.dat` and `movies.dat` of ML-1M. Posters, if any, lie in
`images/<movieId>.jpg`. Times are times of rating, not of watching.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import polars as pl

from mllm_msr.datasets._interactions import to_interactions
from mllm_msr.datasets._readers import (
    check_text,
    images_by_stem,
    join_words,
    need_columns,
    need_file,
    need_folder,
    reading,
    scan_table,
    to_items,
)
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData

_NO_GENRES = "(no genres listed)"


@final
class MovieLens(Dataset):
    """A MovieLens release in a folder.

    Args:
        path: Folder with `ratings.csv` and `movies.csv`, or `ratings.dat` and `movies.dat`.
        min_rating: Ratings below this are left out, 0 keeps all.
    """

    def __init__(self, *, path: Path, min_rating: float = 0.0) -> None:
        self.path = Path(path)
        self.min_rating = min_rating

    def load(self) -> RawData:
        """Read the source.

        Raises:
            DataError: A file is missing, unreadable or not in the expected form.
        """
        folder = need_folder(self.path)
        ratings = need_file(folder, "ratings.csv", "ratings.dat", what="ratings")
        movies = need_file(folder, f"movies{ratings.suffix}", what="films")
        images = images_by_stem(folder / "images")
        old = ratings.suffix == ".dat"
        return RawData(
            interactions=to_interactions(
                _scan_double_colon(ratings) if old else scan_table(ratings),
                ratings,
                user="userId",
                item="movieId",
                time="timestamp",
                unit="s",
                rating="rating",
                min_rating=self.min_rating,
            ),
            items=to_items(
                _double_colon_films(movies) if old else _films(movies), movies, images=images
            ),
            item_type="film",
        )


def _films(path: Path) -> pl.DataFrame:
    """Item id, title and text of the CSV form."""
    table = scan_table(path)
    present = need_columns(table, ("movieId", "title"), path)
    optional = {"genres": pl.lit(""), "user_tags": pl.lit("")}
    with reading(path):
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


def _scan_double_colon(path: Path) -> pl.LazyFrame:
    """Ratings of ML-1M; one colon separates, so every second column is empty."""
    check_text(path, quoted=False)
    names = ["userId", "_1", "movieId", "_2", "rating", "_3", "timestamp"]
    return pl.scan_csv(
        path,
        separator=":",
        has_header=False,
        new_columns=names,
        infer_schema=False,
        quote_char=None,
    )


def _double_colon_films(path: Path) -> pl.DataFrame:
    """Item id, title and text of ML-1M, which is written in Latin-1."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
        fields = line.split("::")
        if len(fields) != 3:
            raise DataError(
                needed=f"movieId::title::genres in every line of {path.name}",
                received=f"{line!r} in line {number}",
                remedy="get the file again; it is not that of ML-1M",
            )
        rows.append((fields[0], fields[1], _text(fields[2], "")))
    return pl.DataFrame(
        rows, schema={"item_id": pl.String, "title": pl.String, "text": pl.String}, orient="row"
    )


def _text(genres: str, tags: str) -> str:
    """Genres and tags as two short sentences; empty where there are none."""
    kinds = "" if genres == _NO_GENRES else ", ".join(filter(None, genres.split("|")))
    words = ", ".join(tag.strip() for tag in tags.split(";") if tag.strip())
    return join_words([f"Genres: {kinds}" if kinds else "", f"Tags: {words}" if words else ""])
