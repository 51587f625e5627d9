"""Files of a dataset: patterns, settings and default names."""

from pathlib import Path

import pytest

from mllm_msr.datasets._source_files import find_file, require_file, require_table
from mllm_msr.errors import DataError


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist\. Set data\.path"):
        require_file(tmp_path / "nowhere", "*.csv", content="ratings")


def test_a_file_instead_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(DataError, match="data is a file, not a folder"):
        require_file(tmp_path / "data", "*.csv", content="ratings")


def test_a_missing_file_is_an_error_that_lists_the_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError,
        match=r"no file with ratings \(r\.csv or r\.dat\)\. It contains notes\.txt",
    ):
        require_file(tmp_path, "r.csv", "r.dat", content="ratings")


def test_patterns_are_tried_in_order_and_must_match_one_file(tmp_path: Path) -> None:
    for name in ("b.csv", "a.tsv", "c.tsv"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "*.csv", "*.tsv") == tmp_path / "b.csv"
    with pytest.raises(DataError, match=r"2 files .* match \*\.tsv.*: a\.tsv, c\.tsv"):
        find_file(tmp_path, "*.tsv")
    assert find_file(tmp_path, "*.json") is None


def test_tables_are_found_by_their_default_name_in_any_format(tmp_path: Path) -> None:
    for name in ("items.csv", "items.xlsx", "items.jsonl.gz", "items.parquet"):
        (tmp_path / name).touch()
        assert require_table(tmp_path, None, "items") == tmp_path / name
        (tmp_path / name).unlink()
    (tmp_path / "notes.md").touch()
    with pytest.raises(
        DataError,
        match=r"no file with items \(items\.csv, .* It contains notes\.md\. Copy the file "
        r"there, or set data\.items_file",
    ):
        require_table(tmp_path, None, "items")


def test_several_tables_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "items.csv").touch()
    (tmp_path / "items.parquet").touch()
    with pytest.raises(
        DataError, match=r"several files with items: items\.csv, items\.parquet\. Set data\.items_f"
    ):
        require_table(tmp_path, None, "items")


def test_a_setting_is_a_path_and_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for path in (tmp_path / "log[2024].csv", tmp_path / "shop" / "log*.csv"):
        path.touch()
    shop = tmp_path / "shop"
    assert require_table(shop, "log*.csv", "items") == shop / "log*.csv"
    assert require_table(shop, "../log[2024].csv", "items") == shop / "../log[2024].csv"
    absolute = tmp_path / "log[2024].csv"
    assert require_table(shop, str(absolute), "items") == absolute
    with pytest.raises(
        DataError,
        match=r"data\.items_file is 'l\*\.csv', but there is no file .*shop "
        r"contains log\*\.csv",
    ):
        require_table(shop, "l*.csv", "items")
    with pytest.raises(DataError, match="which is a folder"):
        require_table(tmp_path, "shop", "items")


def test_folders_and_broken_links_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").mkdir()
    (tmp_path / "items.csv").symlink_to("nowhere")
    with pytest.raises(
        DataError, match=r"contains items\.csv \(a broken link or no file\), items\.parquet/\. Copy"
    ):
        require_table(tmp_path, None, "items")
    with pytest.raises(DataError, match=r"'items\.parquet', which is a folder\. Merge its files"):
        require_table(tmp_path, "items.parquet", "items")
