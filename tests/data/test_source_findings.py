"""Findings about a dataset's files: problems, warnings, and suggestions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_findings import suggest_id_change
from mllm_msr.data.source_report import describe_source, with_filtering
from mllm_msr.interfaces import RawData
from mllm_msr.types import SourceFile, SourceImages
from source_data import image, raw


@pytest.mark.parametrize(
    ("item_id", "catalog_id", "hint"),
    [
        ("123", "00123", "without leading zeros, such as '123' and '00123'"),
        ("a1", "A1", "in lower case"),
        ("a1", " a1", "white space"),
        ("caf\u00e9", "cafe\u0301", "in Unicode's normal form C"),
        ("7.0", "7", "without"),
        ("\uff17", "7", "in Unicode's normal form KC"),
        ("7", "gid://shop/Product/7", "without what precedes the last slash"),
        ("tt0007", "7", ""),
    ],
)
def test_ids_that_match_nothing_are_a_problem_with_a_hint(
    item_id: str, catalog_id: str, hint: str
) -> None:
    (problem,) = describe_source(raw([item_id], catalog=[catalog_id])).problems
    assert f"contain, for example, {item_id!r}" in problem
    assert f"contains {catalog_id!r}" in problem
    assert hint in problem
    assert ("match if compared" in problem) == bool(hint)


def test_many_unknown_items_are_a_warning_and_few_are_not() -> None:
    ids = [f"v{n:02}" for n in range(40)]
    few = describe_source(raw(ids, catalog=ids[1:]))
    assert not any("not in the table of items" in warning for warning in few.warnings)
    many = describe_source(raw(ids, catalog=ids[2:]))
    assert any("2 of 40 items (5%)" in warning for warning in many.warnings)
    assert any("'v00'" in warning for warning in many.warnings)
    assert many.problems == ()


def test_items_without_a_title_are_a_warning() -> None:
    assert any(
        "have no title" in warning for warning in describe_source(raw(["v"], title="")).warnings
    )
    assert not any("title." in warning for warning in describe_source(raw(["v"])).warnings)


def test_a_dataset_without_items_has_one_warning_and_no_problem() -> None:
    report = describe_source(raw(["v1"], catalog=[]))
    assert [
        warning for warning in report.warnings if "table of items is missing or empty" in warning
    ]
    assert report.problems == ()


def test_image_files_of_which_none_matches_are_a_problem(tmp_path: Path) -> None:
    found = SourceImages(tmp_path, 2, 0, ("0001.jpg", "0002.jpg"))
    (problem,) = describe_source(with_images(raw(["1", "2"]), found)).problems
    assert "None of the 2 image files" in problem
    assert "'0001.jpg'" in problem
    assert "without leading zeros" in problem


def with_images(data: RawData, images: SourceImages) -> RawData:
    return RawData(data.interactions, data.items, images=images)


def test_unused_image_files_are_no_problem_if_items_have_images(tmp_path: Path) -> None:
    data = raw(["v1"], images={"v1": image(tmp_path / "other.png")})
    report = describe_source(with_images(data, SourceImages(tmp_path, 1, 0, ("x.png",))))
    assert report.problems == ()


def test_image_paths_of_which_none_exists_are_a_problem(tmp_path: Path) -> None:
    (problem,) = describe_source(raw(["v1"], images={"v1": str(tmp_path / "no.png")})).problems
    assert "exists: 1 path, for example" in problem
    assert "no.png" in problem
    assert "data.images_folder" in problem


@pytest.mark.parametrize("some_found", [True, False])
def test_image_paths_that_are_not_used_are_named(tmp_path: Path, some_found: bool) -> None:
    found = SourceImages(tmp_path, 0, 0, n_rejected=2, rejected=("/etc/a.png", "s3://b"))
    images = {"v1": image(tmp_path / "v1.png")} if some_found else {}
    report = describe_source(dataclasses.replace(raw(["v1", "v2"], images=images), images=found))
    (message,) = [
        message
        for message in (report.warnings if some_found else report.problems)
        if "lead out of the dataset's folder" in message
    ]
    assert "2 image paths are not used" in message
    assert "for example '/etc/a.png'" in message


def test_links_to_images_are_named_unless_they_will_be_downloaded() -> None:
    urls = pl.DataFrame({"item_id": ["v1"], "url": ["https://a/1"]})
    data = raw(["v1"], image_urls=urls)
    assert describe_source(data).n_linked == 1
    assert any("images.download=true" in warning for warning in describe_source(data).warnings)
    assert describe_source(data, download_images=True).warnings == ()


def test_no_change_is_suggested_for_unrelated_ids() -> None:
    assert suggest_id_change(pl.Series(["a"]), pl.Series(["b"])) == ""
    assert suggest_id_change(pl.Series([], dtype=pl.String), pl.Series(["b"])) == ""


def test_the_file_and_its_columns_are_named_if_it_has_no_titles(tmp_path: Path) -> None:
    columns = {"item_id": "id"}
    file = SourceFile(
        tmp_path / "a.csv", "items", "CSV", columns=columns, ignored=("Title", "Body")
    )
    report = describe_source(raw(["v"], title="", sources=(file,)))
    (warning,) = [warning for warning in report.warnings if "have no title" in warning]
    assert "no such column; set data.title_column. It has Title, Body." in warning
    file = SourceFile(tmp_path / "a.csv", "items", "CSV", columns=columns | {"title": "name"})
    report = describe_source(raw(["v"], title="", sources=(file,)))
    assert not any("data.title_column" in warning for warning in report.warnings)


def test_a_title_that_many_items_share_is_a_warning() -> None:
    report = describe_source(raw(["v1", "v2", "v3"], title="nan"))
    assert any("3 of 3 items (100%) have the title 'nan'" in found for found in report.warnings)
    assert not any("have the title" in found for found in describe_source(raw(["v"])).warnings)


def test_items_without_anything_to_read_are_a_warning() -> None:
    def warns(**more: object) -> bool:
        found = describe_source(raw(["v"], **more)).warnings  # type: ignore[arg-type]
        return any("the models know nothing about the items" in warning for warning in found)

    assert warns(title="")
    assert not warns()
    urls = pl.DataFrame({"item_id": ["v"], "url": ["https://a/1"]})
    assert not warns(title="", image_urls=urls)


def test_a_folder_of_images_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for folder, named in ((tmp_path / "pic", True), (tmp_path, False)):
        report = describe_source(with_images(raw(["v"]), SourceImages(folder, 0, 0)))
        assert any(f"there is no folder {folder}" in one for one in report.warnings) == named


def test_paths_of_the_table_are_blamed_before_the_names_of_files(tmp_path: Path) -> None:
    # Files that belong to items by their names are not used if the table names others.
    data = raw(["v1"], images={"v1": str(tmp_path / "images" / "v1.jpg;v1_2.jpg")})
    (problem,) = describe_source(
        with_images(data, SourceImages(tmp_path, 1, 0, ("v1.jpg",)))
    ).problems
    assert "exists: 1 path, for example" in problem


def filtered(rows: list[tuple[str, str, int]], ordered_by: str = "time") -> tuple[str, ...]:
    """Return the warnings about histories."""
    data = raw(["v1", "v2", "v3"], ordered_by=ordered_by)
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    interactions, counts = prepare_interactions(
        frame, min_user_interactions=1, min_item_interactions=1
    )
    before = describe_source(data)
    report = with_filtering(before, interactions, counts, data.items)
    return report.warnings[len(before.warnings) :]


@pytest.mark.parametrize("user_id", ["nan", "NULL", "None", "(not set)", "\\N"])
def test_users_that_stand_for_a_missing_value_are_a_warning(user_id: str) -> None:
    rows = [(user_id, "v1", 1), (user_id, "v2", 2), ("nanna", "v1", 1)]
    (warning,) = filtered(rows)
    assert f"2 interactions have the user_id {user_id!r}, which other programs" in warning


def test_items_that_stand_for_a_missing_value_are_a_warning() -> None:
    (warning,) = filtered([("a", "undefined", 1), ("b", "undefined", 2), ("a", "v1", 2)])
    assert "2 interactions have the item_id 'undefined'" in warning


def test_a_source_without_interactions_is_a_problem_with_the_reasons(tmp_path: Path) -> None:
    file = SourceFile(tmp_path / "a.csv", "interactions", "CSV", dropped={"rating below x": 7})
    (problem,) = describe_source(raw([], catalog=["v1"], sources=(file,))).problems
    assert "There are no interactions. These rows are not used: 7 (rating below x)." in problem


def test_equal_times_within_a_history_are_a_warning() -> None:
    rows = [("a", "v1", 5), ("a", "v2", 5), ("b", "v1", 5), ("b", "v2", 6)]
    (warning,) = filtered(rows)
    assert "1 of 4 interactions (25%) have the same time as the one before of their user" in warning
    assert filtered(rows, ordered_by="rank") == ()
    assert filtered(rows[1:]) == ()


def test_ids_that_are_equal_need_no_change() -> None:
    assert suggest_id_change(pl.Series(["a", "b"]), pl.Series(["a", "B"])).startswith(
        " 1 of 1 match if compared in lower case, such as 'b' and 'B'"
    )


def test_images_that_no_model_reads_are_no_deficit(tmp_path: Path) -> None:
    found = SourceImages(tmp_path, 1, 0, ("other.jpg",))
    rejected = SourceImages(tmp_path, 0, 0, n_rejected=1, rejected=("/etc/a.png",))
    links = pl.DataFrame({"item_id": ["v1"], "url": ["https://host/a.png"]})
    for data in (
        raw(["v1"]),
        raw(["v1"], images={"v1": str(tmp_path / "no.png")}),
        with_images(raw(["v1"]), found),
        with_images(raw(["v1"]), rejected),
        raw(["v1"], image_urls=links),
    ):
        reading = describe_source(data)
        assert any("image" in message for message in (*reading.problems, *reading.warnings))
        report = describe_source(data, reads_images=False)
        assert (report.problems, report.warnings) == ((), ())
    only_images = raw(["v1"], title="", images={"v1": image(tmp_path / "v1.png")})
    assert not describe_source(only_images).problems
    (warning,) = [
        each
        for each in describe_source(only_images, reads_images=False).warnings
        if "know nothing about the items" in each
    ]
    assert warning.startswith("No item has a title or a text, so")
