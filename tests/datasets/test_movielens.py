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
        '10,"CaseStudy, A (1995)",1995,Comedy|Drama,pixar; fun \n'
        "20,Untold (2001),2001,(no genres listed),\n"
    )
    return tmp_path


def test_the_csv_form(folder: Path) -> None:
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
            "CaseStudy, A (1995)",
            "Genres: Comedy, Drama. Tags: pixar, fun.",
            str(folder / "images" / "10.jpg"),
        ),
        ("20", "Untold (2001)", "", None),
    ]


def test_films_may_have_titles_only(folder: Path) -> None:
    (folder / "movies.csv").write_text("movieId,title\n10,One\n")
    assert MovieLens(path=folder).load().items.rows() == [("10", "One", "", None)]


def test_the_form_of_ml_1m(tmp_path: Path) -> None:
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


def test_low_ratings_may_be_left_out(folder: Path) -> None:
    kept = MovieLens(path=folder, min_rating=3).load().interactions.collect()
    assert kept["item_id"].to_list() == ["10"]


@pytest.mark.parametrize("rating", ["NaN", "", "good"])
def test_a_rating_that_is_no_number_is_refused(folder: Path, rating: str) -> None:
    with (folder / "ratings.csv").open("a") as file:
        file.write(f"2,10,{rating},1\n")
    with pytest.raises(DataError, match=r"column rating in ratings\.csv, received 1 .* data row 3"):
        MovieLens(path=folder).load()


def test_wrong_columns_are_named(folder: Path) -> None:
    (folder / "ratings.csv").write_text("user_id,movieId,rating,timestamp\n1,10,4,1\n")
    with pytest.raises(DataError, match=r"column userId .* \('user_id' looks like 'userId'\)"):
        MovieLens(path=folder).load()


def test_latin1_in_the_csv_form_is_refused_by_line(folder: Path) -> None:
    (folder / "movies.csv").write_bytes("movieId,title\n10,Misérables\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"movies\.csv, received the byte 0xe9 in line 2"):
        MovieLens(path=folder).load()


def test_other_lines_among_the_films_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::10::4::964980499\n")
    (tmp_path / "movies.dat").write_text("10::One::Drama\n11|Two|Drama\n")
    with pytest.raises(DataError, match=r"'11\|Two\|Drama' in line 2"):
        MovieLens(path=tmp_path).load()
