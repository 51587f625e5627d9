"""MovieLens: CSV releases, ML-1M, and errors."""

from pathlib import Path

import pytest

from mllm_msr.datasets.movielens import MovieLens
from mllm_msr.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,4.0,964980499\n1,20,2.5,964980500\n"
    )
    (tmp_path / "movies.csv").write_text(
        "movieId,title,year,genres,user_tags\n"
        '10,"Story, A (1995)",1995,Comedy|Drama,pixar; fun \n'
        "20,Untold (2001),2001,(no genres listed),\n"
    )
    return tmp_path


def test_csv_release(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "10.jpg").touch()
    raw = MovieLens(path=folder).load()
    assert (raw.item_type, raw.ordered_by) == ("film", "time")
    assert raw.interactions.collect().rows() == [
        ("1", "10", 964_980_499_000),
        ("1", "20", 964_980_500_000),
    ]
    assert raw.items.rows() == [
        (
            "10",
            "Story, A (1995)",
            "Genres: Comedy, Drama. Tags: pixar, fun.",
            str(folder / "images" / "10.jpg"),
        ),
        ("20", "Untold (2001)", "", None),
    ]


def test_genres_and_tags_are_optional(folder: Path) -> None:
    (folder / "movies.csv").write_text("movieId,title\n10,One\n")
    assert MovieLens(path=folder).load().items.rows() == [("10", "One", "", None)]


def test_ml_1m_release(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::10::4::964980499\n2::10::5::964980501\n")
    (tmp_path / "movies.dat").write_bytes(
        "10::Misérables: Les (1995)::Drama|Musical\n".encode("latin-1")
    )
    raw = MovieLens(path=tmp_path).load()
    assert raw.interactions.collect().rows() == [
        ("1", "10", 964_980_499_000),
        ("2", "10", 964_980_501_000),
    ]
    assert raw.items.rows() == [("10", "Misérables: Les (1995)", "Genres: Drama, Musical.", None)]


def test_low_ratings_are_removed(folder: Path) -> None:
    interactions = MovieLens(path=folder, min_rating=3).load().interactions.collect()
    assert interactions["item_id"].to_list() == ["10"]


@pytest.mark.parametrize("rating", ["NaN", "", "good"])
def test_an_invalid_rating_is_an_error(folder: Path, rating: str) -> None:
    with (folder / "ratings.csv").open("a") as file:
        file.write(f"2,10,{rating},1\n")
    with pytest.raises(DataError, match=r"3 of ratings\.csv has .* in the column rating"):
        MovieLens(path=folder).load()


def test_wrong_columns_are_an_error(folder: Path) -> None:
    (folder / "ratings.csv").write_text("user_id,movieId,rating,timestamp\n1,10,4,1\n")
    with pytest.raises(DataError, match=r"no column userId.*'user_id' is similar to 'userId'"):
        MovieLens(path=folder).load()


def test_latin1_in_csv_files_is_an_error_with_its_line(folder: Path) -> None:
    (folder / "movies.csv").write_bytes("movieId,title\n10,Misérables\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"movies\.csv is not UTF-8: line 2 contains the byte 0xe9"):
        MovieLens(path=folder).load()


def test_malformed_ml_1m_films_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::10::4::964980499\n")
    (tmp_path / "movies.dat").write_text("10::One::Drama\n11|Two|Drama\n")
    with pytest.raises(DataError, match=r"Line 2 of movies\.dat is '11\|Two\|Drama'"):
        MovieLens(path=tmp_path).load()
