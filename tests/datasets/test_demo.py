"""The synthetic dataset: valid tables, determinism, covers and arguments."""

import polars as pl
import pytest
from PIL import Image

from mllm_msr.datasets.demo import Demo
from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS
from mllm_msr.errors import DataError, UsageError


def demo(folder, **changes):
    return Demo(covers=folder, **{"n_items": 40, "n_users": 15, "cover_size": 48, **changes})


def test_tables_are_complete_and_chronological(tmp_path):
    data = demo(tmp_path).load()
    interactions = data.interactions.collect()
    assert data.items["item_id"].n_unique() == 40
    assert interactions["user_id"].n_unique() == 15
    assert set(interactions["item_id"]) <= set(data.items["item_id"])
    assert interactions.schema["timestamp"] == pl.Int64
    assert interactions["timestamp"].min() > 1_600_000_000_000
    is_increasing = interactions.group_by("user_id", maintain_order=True).agg(
        (pl.col("timestamp").diff().drop_nulls() > 0).all()
    )
    assert is_increasing["timestamp"].all()
    assert (data.item_type, data.ordered_by) == ("video", "time")


def test_data_depends_on_the_seed_alone(tmp_path):
    first, second = demo(tmp_path).load(), demo(tmp_path).load()
    assert first.items.equals(second.items)
    assert first.interactions.collect().equals(second.interactions.collect())
    other = demo(tmp_path, world_seed=1).load()
    assert not other.items["title"].equals(first.items["title"])


def test_covers_are_images_drawn_once(tmp_path):
    items = demo(tmp_path).load().items
    with Image.open(items["image"][0]) as cover:
        assert cover.size == (48, 48)
    (folder,) = tmp_path.iterdir()
    stamps = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    demo(tmp_path).load()
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == stamps
    assert len(stamps) == 40


def test_no_text_contains_values_of_image_slots(tmp_path):
    items = demo(tmp_path).load().items
    words = " ".join([*items["title"], *items["text"]]).lower().replace("'", " ").split()
    assert not set(words) & {value for i in IMAGE_SLOTS for value in SLOTS[i].values}


def test_the_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    items = Demo(n_items=30, n_users=2, cover_size=32).load().items
    assert items["image"][0].startswith(str(tmp_path / "mllm-msr" / "demo"))


def test_a_pretraining_seed_is_an_error():
    with pytest.raises(
        UsageError, match=r"data\.world_seed is 1000000\. Choose a seed from 0 to 999"
    ):
        Demo(world_seed=1_000_000)


def test_too_few_items_are_an_error():
    with pytest.raises(UsageError, match="at least 30 items"):
        Demo(n_items=5)


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Cannot write the demo's covers to .*Set data\.covers"):
        demo(tmp_path / "file").load()
