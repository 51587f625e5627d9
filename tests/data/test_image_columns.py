"""Columns of images: lists, limits and changes that keep the first image in `image`."""

from __future__ import annotations

import polars as pl

from mllm_msr.data.image_columns import image_lists, limit_images, with_images
from mllm_msr.tables import ITEMS, MORE_IMAGES

ROWS = [("a", "A", "", "1.jpg", ["2.jpg", "3.jpg"]), ("b", "B", "", "4.jpg", None)]
SEVERAL = pl.DataFrame(
    [*ROWS, ("c", "C", "", None, None)], schema={**ITEMS, **MORE_IMAGES}, orient="row"
)


def test_images_of_items_with_and_without_several() -> None:
    expected = [["1.jpg", "2.jpg", "3.jpg"], ["4.jpg"], []]
    assert image_lists(SEVERAL).to_list() == expected
    assert image_lists(SEVERAL.drop("more_images")).to_list() == [["1.jpg"], ["4.jpg"], []]
    assert image_lists(SEVERAL.clear()).to_list() == []


def test_the_first_remaining_image_takes_the_first_place() -> None:
    changed = with_images(SEVERAL, pl.Series([[None, "2.jpg", "3.jpg"], [None], []]))
    assert changed["image"].to_list() == ["2.jpg", None, None]
    assert changed["more_images"].to_list() == [["3.jpg"], None, None]
    assert changed.schema == SEVERAL.schema


def test_limits() -> None:
    assert limit_images(SEVERAL, 3).equals(SEVERAL)
    assert image_lists(limit_images(SEVERAL, 2)).to_list() == [["1.jpg", "2.jpg"], ["4.jpg"], []]
    assert limit_images(SEVERAL, 1).equals(SEVERAL.drop("more_images"))
