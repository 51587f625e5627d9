"""MicroLens: both formats, titles, covers, and errors."""

from pathlib import Path

import pytest

from mllm_msr.datasets.microlens import MicroLens
from mllm_msr.errors import DataError

TITLES = 'item,title\n1,"One, # tag"\n2,Two\n3,"Say ""three"""\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Mini_titles.csv").write_text(TITLES)
    (tmp_path / "Mini_pairs.tsv").write_bytes(b"u1\t3 1  2 \r\nu2\t1\r\n")
    return tmp_path


def test_sequences_are_ordered_by_rank(folder: Path) -> None:
    raw = MicroLens(path=folder).load()
    assert (raw.item_type, raw.ordered_by) == ("video", "rank")
    assert raw.interactions.collect().rows() == [
        ("u1", "3", 0),
        ("u1", "1", 1),
        ("u1", "2", 2),
        ("u2", "1", 0),
    ]
    assert raw.items["title"].to_list() == ["One, # tag", "Two", 'Say "three"']
    assert raw.items["image"].null_count() == 3


def test_a_header_is_not_a_user(folder: Path) -> None:
    (folder / "Mini_pairs.tsv").write_text("user\titems\nu1\t3 1\n")
    assert set(MicroLens(path=folder).load().interactions.collect()["user_id"]) == {"u1"}


def test_timestamps_are_preferred_to_sequences(folder: Path) -> None:
    (folder / "Mini_pairs.csv").write_text("user,item,timestamp\nu1,3,1583378952364\n")
    raw = MicroLens(path=folder).load()
    assert raw.ordered_by == "time"
    assert raw.interactions.collect().rows() == [("u1", "3", 1_583_378_952_364)]


def test_titles_may_have_no_header(folder: Path) -> None:
    (folder / "Mini_titles.csv").write_text("1,One\n2,Two\n")
    items = MicroLens(path=folder).load().items
    assert items.select("item_id", "title").rows() == [("1", "One"), ("2", "Two")]


@pytest.mark.parametrize("name", ["Mini_covers", "covers", "images"])
def test_covers_are_found_in_every_known_folder(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "2.jpg").touch()
    images = MicroLens(path=folder).load().items["image"].to_list()
    assert images == [None, str(folder / name / "2.jpg"), None]


def test_two_releases_in_one_folder_are_an_error(folder: Path) -> None:
    (folder / "Other_pairs.tsv").touch()
    with pytest.raises(DataError, match=r"2 files .*: Mini_pairs"):
        MicroLens(path=folder).load()


def test_a_user_on_two_lines_is_an_error(folder: Path) -> None:
    (folder / "Mini_pairs.tsv").write_text("u1\t3 1\nu1\t2\n")
    with pytest.raises(DataError, match=r"Mini_pairs\.tsv has several lines for user 'u1'"):
        MicroLens(path=folder).load()


def test_other_separators_are_an_error(folder: Path) -> None:
    (folder / "Mini_pairs.tsv").write_text("u1,3 1\n")
    with pytest.raises(DataError, match=r"1 of Mini_pairs\.tsv has no value in the column items"):
        MicroLens(path=folder).load()


def test_titles_with_unquoted_commas_are_an_error(folder: Path) -> None:
    (folder / "Mini_titles.csv").write_text("1,One\n2,Two, or three\n")
    with pytest.raises(DataError, match=r"Mini_titles\.csv.*double quotes"):
        MicroLens(path=folder).load()


def test_wrong_columns_are_an_error(folder: Path) -> None:
    (folder / "Mini_pairs.csv").write_text("user,video,timestamp\nu1,3,1\n")
    with pytest.raises(
        DataError, match=r"Mini_pairs\.csv has no column item\. Its columns are user, v"
    ):
        MicroLens(path=folder).load()
