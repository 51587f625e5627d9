"""Report of what was understood of a dataset: counts, warnings, and problems."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_report import DataReport, describe_source, suggest_id_change
from mllm_msr.errors import DataError
from mllm_msr.interfaces import RawData
from mllm_msr.tables import ITEMS
from mllm_msr.types import SourceFile, SourceImages

DAY_MS = 86_400_000


def raw(
    item_ids: list[str],
    *,
    catalog: list[str] | None = None,
    images: dict[str, str] | None = None,
    title: str = "A title",
    **more: object,
) -> RawData:
    """Return data of two users who interacted with all items, one item a day."""
    rows = [(user, item_id, day * DAY_MS) for user in "ab" for day, item_id in enumerate(item_ids)]
    catalog = item_ids if catalog is None else catalog
    items = [(item_id, title, "", (images or {}).get(item_id)) for item_id in catalog]
    return RawData(
        interactions=pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        **more,  # type: ignore[arg-type]
    )


def image(path: Path) -> str:
    Image.new("RGB", (4, 4)).save(path)
    return str(path)


def test_it_counts_what_the_tables_contain(tmp_path: Path) -> None:
    images = {"v1": image(tmp_path / "v1.png"), "v2": str(tmp_path / "absent.png")}
    (tmp_path / "v3.png").write_bytes(b"no image")
    images["v3"] = str(tmp_path / "v3.png")
    report = describe_source(raw([f"v{n}" for n in range(1, 6)], images=images))
    assert (report.n_interactions, report.n_users, report.n_items) == (10, 2, 5)
    assert (report.first, report.last) == (0, 4 * DAY_MS)
    assert (report.n_known, report.n_items_known, report.n_with_title) == (10, 5, 5)
    assert (report.n_with_text, report.n_with_image, report.missing_images) == (0, 2, 1)
    assert report.missing_examples == (images["v2"],)
    assert report.n_decoded == 2
    assert len(report.unreadable_images) == 1
    assert "v3.png" in report.unreadable_images[0]
    assert report.examples == {"user_id": "a", "item_id": "v1", "catalog_id": "v1"}
    assert report.problems == ()


def test_filtering_adds_counts_and_histories() -> None:
    data = raw(["v1", "v2", "v1"], catalog=["v1", "v2"])
    interactions, counts = prepare_interactions(
        data.interactions, min_user_interactions=1, min_item_interactions=1
    )
    report = describe_source(data).with_filtering(interactions, counts, data.items.head(1))
    assert report.counts["duplicates_dropped"] == 2
    assert [(one.user_id, one.n_items) for one in report.histories] == [("a", 2), ("b", 2)]
    assert report.histories[0].items == (("v1", "A title"), ("v2", ""))


@pytest.mark.parametrize(
    ("item_id", "catalog_id", "hint"),
    [
        ("123", "00123", "without leading zeros, such as '123' and '00123'"),
        ("a1", "A1", "in lower case"),
        ("a1", " a1", "white space"),
        ("caf\u00e9", "cafe\u0301", "in Unicode's normal form C"),
        ("7.0", "7", "without"),
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
    assert [warning for warning in report.warnings if "no table of items" in warning]
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
    assert "None of the 1 image paths" in problem
    assert "no.png" in problem


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


def test_a_report_with_a_problem_is_an_error() -> None:
    usable = describe_source(raw(["v1"]))
    usable.require_usable()
    with pytest.raises(DataError, match="Too small"):
        usable.with_problem("Too small.").require_usable()


def test_it_can_be_written_as_json(tmp_path: Path) -> None:
    data = raw(["v1"])
    described = RawData(
        data.interactions,
        data.items,
        sources=(SourceFile(tmp_path / "a.csv", "items", "CSV", separator=","),),
        images=SourceImages(tmp_path, 0, 0),
    )
    values = json.loads(json.dumps(describe_source(described).to_dict()))
    assert values["files"][0]["path"] == str(tmp_path / "a.csv")
    assert values["images"]["folder"] == str(tmp_path)
    assert set(values) == set(DataReport.__dataclass_fields__)


def test_values_of_a_wrong_type_are_an_error() -> None:
    rows = pl.LazyFrame({"user_id": ["u"], "item_id": ["v"], "timestamp": ["yesterday"]})
    with pytest.raises(DataError, match="timestamp"):
        describe_source(RawData(rows, pl.DataFrame(schema=dict(ITEMS))))


def test_no_change_is_suggested_for_unrelated_ids() -> None:
    assert suggest_id_change(pl.Series(["a"]), pl.Series(["b"])) == ""
    assert suggest_id_change(pl.Series([], dtype=pl.String), pl.Series(["b"])) == ""
