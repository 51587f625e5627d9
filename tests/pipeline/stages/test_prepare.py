"""Stage "prepare": consistent counts, the protocols, and optional downloads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_msr.config.settings import DataSettings, ImagesSettings
from mllm_msr.data import image_download
from mllm_msr.data.image_columns import image_lists, with_images
from mllm_msr.errors import DataError
from mllm_msr.interfaces import RawData
from mllm_msr.pipeline.stages import prepare as stage
from mllm_msr.tables import ITEMS

N_USERS, N_ITEMS, N_STEPS = 12, 10, 6


@pytest.fixture
def raw() -> RawData:
    rows = [
        (f"u{user}", f"i{(user + step) % N_ITEMS}", 1000 * user + step)
        for user in range(N_USERS)
        for step in range(N_STEPS)
    ]
    return RawData(
        interactions=pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"),
        items=pl.DataFrame(
            [(f"i{n}", f"title {n}", "", None) for n in range(N_ITEMS)],
            schema=dict(ITEMS),
            orient="row",
        ),
        image_urls=pl.DataFrame({"item_id": ["i0", "i1"], "url": ["https://a/0", "https://a/1"]}),
    )


def prepared(
    raw: RawData,
    folder: Path,
    *,
    download: bool = False,
    per_item: int = 1,
    reads_images: bool = True,
    **data: object,
) -> stage.Prepared:
    settings = DataSettings.model_validate(
        {
            "min_user_interactions": 3,
            "min_item_interactions": 1,
            "folds": 3,
            "n_negatives": 3,
            **data,
        }
    )
    images = ImagesSettings(download=download, per_item=per_item)
    return stage.prepare(
        raw,
        settings,
        block_size=3,
        images=images,
        run_folder=folder,
        reads_images=reads_images,
    )


def test_tables_agree_with_each_other(raw: RawData, tmp_path: Path) -> None:
    found = prepared(raw, tmp_path)
    assert found.interactions.height == N_USERS * N_STEPS
    assert set(found.interactions["item_id"]) <= set(found.items["item_id"])
    assert found.splits["user_id"].n_unique() == N_USERS
    assert found.counts["candidates"] == found.candidates.height
    targets = found.candidates.filter(pl.col("label") == 1)
    last = found.interactions.group_by("user_id").agg(position=pl.col("position").max())
    tested = targets.filter(pl.col("split") == "test").join(last, on=["user_id", "position"])
    assert tested["user_id"].n_unique() == N_USERS  # every user is tested on their last item


def test_the_released_code_protocol_has_one_fold(raw: RawData, tmp_path: Path) -> None:
    found = prepared(raw, tmp_path, protocol="released-code", min_user_interactions=1)
    assert found.splits["fold"].n_unique() == 1


def test_images_are_downloaded_only_on_request(
    raw: RawData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(urls: pl.DataFrame, folder: Path, **_: object) -> pl.DataFrame:
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / "i0.jpg")
        ok = urls["item_id"] == "i0"
        return urls.select(
            "item_id",
            image=pl.when(ok).then(pl.lit(f"{folder}/i0.jpg")),
            status=pl.when(ok).then(pl.lit("ok")).otherwise(pl.lit("failed")),
            reason=pl.when(~ok).then(pl.lit("status 404")),
        )

    monkeypatch.setattr(stage, "fetch_images", fetch)
    assert prepared(raw, tmp_path).items["image"].null_count() == N_ITEMS
    found = prepared(raw, tmp_path, download=True)
    images = dict(found.items.select("item_id", "image").iter_rows())
    assert images["i0"].startswith("images/sha256-")
    content = (tmp_path / "cache" / "downloads" / "i0.jpg").read_bytes()
    assert (tmp_path / images["i0"]).read_bytes() == content
    assert images["i1"] is None
    assert (found.counts["download_ok"], found.counts["download_failed"]) == (1, 1)
    assert "Item i1 has no image: status 404" in caplog.text
    assert image_download.fetch_images is not fetch


def test_the_first_images_of_an_item_are_kept(raw: RawData, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8 + number, 8), "red").save(path)
    listed = [[str(path) for path in paths], [str(tmp_path / "absent.png"), str(paths[0])]]
    lists = pl.Series([*listed, *[[]] * (N_ITEMS - 2)], dtype=pl.List(pl.String))
    several = dataclasses.replace(raw, items=with_images(raw.items, lists))
    one = prepared(several, tmp_path / "one")
    assert one.items.columns == raw.items.columns
    assert one.items["image"].null_count() == N_ITEMS - 1
    assert "images_incomplete" not in one.counts
    assert (one.report.n_with_several, one.report.images_per_item) == (2, 1)
    two = prepared(several, tmp_path / "two", per_item=2)
    kept = dict(zip(two.items["item_id"], image_lists(two.items).to_list(), strict=True))
    assert [len(kept[f"i{number}"]) for number in range(3)] == [2, 1, 0]
    assert kept["i0"][0] == one.items.filter(item_id="i0")["image"].item() == kept["i1"][0]
    assert (two.counts["images_stored"], two.counts["images_incomplete"]) == (2, 1)
    paths[1].write_bytes(b"damaged")
    damaged = prepared(several, tmp_path / "damaged", per_item=2)
    assert image_lists(damaged.items.filter(item_id="i0")).to_list() == [kept["i0"][:1]]
    assert damaged.report.n_incomplete == damaged.counts["images_incomplete"] == 2


def test_several_images_are_downloaded(
    raw: RawData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(urls: pl.DataFrame, folder: Path, **_: object) -> pl.DataFrame:
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, (item_id, url) in enumerate(urls.rows()):
            path = folder / f"{url.rpartition('/')[2]}.png"
            Image.new("RGB", (8 + number, 8), "red").save(path)
            lost = url.endswith("lost")
            rows.append((item_id, None if lost else str(path), "missing" if lost else "ok", ""))
        return pl.DataFrame(rows, schema=["item_id", "image", "status", "reason"], orient="row")

    monkeypatch.setattr(stage, "fetch_images", fetch)
    links = [("i0", "a"), ("i1", "lost"), ("i0", "b"), ("i1", "c"), ("i0", "d"), ("i1", "c")]
    urls = pl.DataFrame(
        [(item_id, f"https://i/{name}") for item_id, name in links],
        schema=["item_id", "url"],
        orient="row",
    )
    found = prepared(dataclasses.replace(raw, image_urls=urls), tmp_path, download=True, per_item=2)
    kept = dict(zip(found.items["item_id"], image_lists(found.items).to_list(), strict=True))
    assert [len(kept[f"i{number}"]) for number in range(3)] == [2, 1, 0]
    assert (found.counts["download_ok"], found.counts["download_missing"]) == (3, 1)
    downloads = tmp_path / "cache" / "downloads"
    stored = [(tmp_path / path).read_bytes() for path in kept["i0"]]
    assert stored == [(downloads / name).read_bytes() for name in ("a.png", "b.png")]


def test_ids_that_match_nothing_stop_the_stage(raw: RawData, tmp_path: Path) -> None:
    renamed = raw.items.with_columns(pl.col("item_id").str.to_uppercase())
    other = RawData(raw.interactions, renamed)
    with pytest.raises(DataError, match=r"None of the 10 item ids.*'i0'.*'I0'.*lower case"):
        prepared(other, tmp_path)


def test_warnings_about_the_data_are_logged(
    raw: RawData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = prepared(RawData(raw.interactions, raw.items.head(7)), tmp_path)
    assert "3 of 10 items (30%)" in caplog.text
    assert any("3 of 10 items (30%)" in warning for warning in found.report.warnings)


def test_check_reports_what_prepare_does(raw: RawData, tmp_path: Path) -> None:
    settings = DataSettings(
        min_user_interactions=3, min_item_interactions=1, folds=3, n_negatives=3
    )
    assert stage.check(raw, settings, block_size=3) == prepared(raw, tmp_path).report


def test_image_paths_without_files_stop_only_runs_that_read_images(
    raw: RawData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = raw.items.with_columns(image=pl.lit(str(tmp_path / "gone.png")))
    missing = dataclasses.replace(raw, items=items, image_urls=None)
    with pytest.raises(DataError, match="image paths of the items exists: 10 paths"):
        prepared(missing, tmp_path)
    found = prepared(missing, tmp_path, reads_images=False)
    assert found.items["image"].null_count() == 10
    assert found.counts["images_missing"] == 10
    assert caplog.text == ""
