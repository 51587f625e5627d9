"""Films of MovieLens: encodings, line ends, genres, and bad rows."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.datasets._movielens_films import read_films
from mllm_msr.errors import DataError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_utf8_and_latin1_give_the_same_films(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "movies.dat"
    lines = "1::Amélie (2001)::Comedy|Romance\r\n2::Ådalen 31::Drama\n3::It: Two::\n\n \n"
    path.write_bytes(lines.encode(encoding))
    films, source = read_films(path, ReadOptions())
    assert films.rows() == [
        ("1", "Amélie (2001)", "Genres: Comedy, Romance."),
        ("2", "Ådalen 31", "Genres: Drama."),
        ("3", "It: Two", ""),
    ]
    assert source.encoding == ("LATIN-1" if encoding == "latin-1" else "UTF-8")
    assert (source.n_rows, source.content) == (3, "items")


def test_the_encoding_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "movies.dat"
    path.write_bytes("1::Don\u2019t::Drama".encode("cp1252"))
    films, source = read_films(path, ReadOptions(encoding="cp1252"))
    assert (films["title"].item(), source.encoding) == ("Don\u2019t", "CP1252")
    with pytest.raises(DataError, match=r"movies\.dat is not ascii: .*0x92.* Correct data\.enc"):
        read_films(path, ReadOptions(encoding="ascii"))


def test_other_line_separators_belong_to_the_title(tmp_path: Path) -> None:
    path = tmp_path / "movies.dat"
    path.write_bytes(b"1::Caf\xe9\x85\x0b\x1c (2001)::Comedy\n2::B::Drama")
    films, _ = read_films(path, ReadOptions())
    assert films["item_id"].to_list() == ["1", "2"]


def test_titles_may_contain_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "movies.dat"
    path.write_text("7::A::B (2001)::(no genres listed)\n")
    assert read_films(path, ReadOptions())[0].rows() == [("7", "A::B (2001)", "")]


def test_unknown_genres_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "u.item"
    path.write_text("267|unknown||||1" + "|0" * 18 + "\n")
    assert read_films(path, ReadOptions())[0].rows() == [("267", "unknown", "")]


@pytest.mark.parametrize(
    ("name", "line", "shape"),
    [
        ("movies.dat", "11|Two|Drama", "movieId::title::genres"),
        ("movies.dat", " ::Two::Drama", "movieId::title::genres"),
        ("movies.dat", "11::Two", "movieId::title::genres"),
        ("u.item", "11|Two|Drama", r"movieId\|title"),
    ],
)
def test_bad_lines_are_errors_or_dropped(tmp_path: Path, name: str, line: str, shape: str) -> None:
    path = tmp_path / name
    good = "10::One::Drama" if name == "movies.dat" else "10|One|||" + "|0" * 19
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=rf"Line 2 of {name} is '.*'; expected {shape}.*=drop"):
        read_films(path, ReadOptions())
    films, source = read_films(path, ReadOptions(on_bad_rows="drop"))
    assert films["item_id"].to_list() == ["10"]
    assert (source.n_rows, source.dropped) == (2, {"not a film": 1})


@given(
    content=st.binary() | st.text().map(str.encode), name=st.sampled_from(["u.item", "movies.dat"])
)
@example(content=b"1::a\x85b::c", name="movies.dat")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_films_or_an_error(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    assume(not content.startswith(b"\x1f\x8b"))  # a damaged gzip file
    good = b"10::One::Drama" if name == "movies.dat" else b"10|One|||" + b"|0" * 19
    path.write_bytes(content + b"\n" + good)
    films, source = read_films(path, ReadOptions(on_bad_rows="drop"))
    assert source.n_rows == films.height + sum(source.dropped.values())
    if source.dropped:
        with pytest.raises(DataError):
            read_films(path, ReadOptions())
