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
    items = MovieLens(path=folder, encoding="latin-1").load().items
    assert items["title"].to_list() == ["Misérables"]


def test_ml_10m_release(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::122::4.5::838985046\n")
    (tmp_path / "movies.dat").write_text("122::Amélie (2001)::Comedy\n")
    raw = MovieLens(path=tmp_path).load()
    assert raw.interactions.collect().rows() == [("1", "122", 838_985_046_000)]
    assert raw.items["title"].to_list() == ["Amélie (2001)"]


def test_ml_100k_release(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t1\t891717742\n")
    flags = "|".join("1" if n in {5, 14} else "0" for n in range(19))
    (tmp_path / "u.item").write_bytes(
        f"242|Kolja (1996)|24-Jan-1997||http://us.imdb.com/|{flags}\n".encode("latin-1")
    )
    raw = MovieLens(path=tmp_path, min_rating=2).load()
    assert raw.interactions.collect().rows() == [("196", "242", 881_250_949_000)]
    assert raw.items.rows() == [("242", "Kolja (1996)", "Genres: Comedy, Romance.", None)]


def test_the_sources_describe_both_files(folder: Path) -> None:
    raw = MovieLens(path=folder).load()
    assert [(s.path.name, s.content, s.n_rows) for s in raw.sources] == [
        ("ratings.csv", "interactions", 2),
        ("movies.csv", "items", 2),
    ]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("ratings.csv", "x,,4,5", r"ratings\.csv"),
        ("movies.csv", ",Lost,2001,,", r"movies\.csv"),
    ],
)
def test_bad_rows_are_errors_or_dropped(folder: Path, name: str, line: str, message: str) -> None:
    with (folder / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        MovieLens(path=folder).load()
    raw = MovieLens(path=folder, on_bad_rows="drop").load()
    assert raw.interactions.collect().height == raw.items.height == 2
    dropped = {source.path.name: sum(source.dropped.values()) for source in raw.sources}
    assert dropped == {"ratings.csv": 0, "movies.csv": 0} | {name: 1}
