"""Datasets from files: names and columns as settings, images, and errors."""

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.datasets.files import Files
from mllm_msr.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\na,1,5\na,2,6\n")
    (tmp_path / "items.csv").write_text("item_id,title,text\n1,One,First\n2,Two,\n")
    return tmp_path


def test_default_file_and_column_names(folder: Path) -> None:
    raw = Files(path=folder).load()
    assert (raw.item_type, raw.ordered_by) == ("item", "time")
    assert raw.interactions.collect().rows() == [("a", "1", 5000), ("a", "2", 6000)]
    assert raw.items.rows() == [("1", "One", "First", None), ("2", "Two", "", None)]


def test_file_and_column_names_are_settings(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": [1, 1], "what": [7, 8], "stars": [5.0, 1.0]})
    frame.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "catalog.tsv").write_text("what\tname\tnote\tcover\n7\tSeven\tlucky\tp/x.png\n")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x.png").touch()
    raw = Files(
        path=tmp_path,
        interactions_file="log.parquet",
        items_file="catalog.tsv",
        user_column="who",
        item_column="what",
        time_column=None,
        rating_column="stars",
        min_rating=2,
        title_column="name",
        text_column="note",
        image_column="cover",
        item_type="product",
    ).load()
    assert (raw.item_type, raw.ordered_by) == ("product", "rank")
    assert raw.interactions.collect().rows() == [("1", "7", 0)]
    assert raw.items.rows() == [("7", "Seven", "lucky", str(tmp_path / "p" / "x.png"))]


def test_images_are_found_by_item_id(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "2.webp").touch()
    images = Files(path=folder).load().items["image"].to_list()
    assert images == [None, str(folder / "images" / "2.webp")]


def test_a_named_image_that_does_not_exist_keeps_its_path(folder: Path) -> None:
    """Check that it is counted as missing, unlike an item without an image."""
    (folder / "items.csv").write_text("item_id,image\n1,gone.jpg\n")
    assert Files(path=folder).load().items["image"].to_list() == [str(folder / "images/gone.jpg")]


def test_ids_may_be_numbers_in_one_file_and_text_in_the_other(folder: Path) -> None:
    (folder / "interactions.csv").unlink()
    pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [3]}).write_parquet(
        folder / "interactions.parquet"
    )
    raw = Files(path=folder).load()
    assert set(raw.interactions.collect()["item_id"]) <= set(raw.items["item_id"])


def test_a_configured_column_must_exist(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"items\.csv has no column titel.*'title' is similar to 'titel'"
    ):
        Files(path=folder, title_column="titel").load()
    with pytest.raises(
        DataError, match=r"interactions\.csv has no column time\..*'timestamp' is similar"
    ):
        Files(path=folder, time_column="time").load()


def test_a_missing_item_table_is_an_error(folder: Path) -> None:
    (folder / "items.csv").unlink()
    with pytest.raises(DataError, match=r"no file with items \(items\.csv, "):
        Files(path=folder).load()


def test_an_unclosed_quotation_mark_is_an_error(folder: Path) -> None:
    (folder / "items.csv").write_text('item_id,title\n1,"One\n2,Two\n')
    with pytest.raises(DataError, match="starts in line 2 and is not closed"):
        Files(path=folder).load()
