"""Columns of a table of items that contain images, as one list of paths for each item.

The column `image` has the first image of an item and `more_images` the others. Stages that remove
images change both, so that the first of the remaining images is in `image`.
"""

from __future__ import annotations

import polars as pl

from mllm_msr.tables import MORE_IMAGES


def image_lists(items: pl.DataFrame) -> pl.Series:
    """Return the list of the images of each item, which may be empty.

    Args:
        items: `tables.ITEMS`.
    """
    more = [pl.col(name).fill_null([]) for name in MORE_IMAGES if name in items.columns]
    return items.select(pl.concat_list("image", *more).list.drop_nulls()).to_series()


def with_images(items: pl.DataFrame, paths: pl.Series) -> pl.DataFrame:
    """Return items with other images.

    Args:
        items: `tables.ITEMS`.
        paths: The list of the images of each item; nulls in a list are dropped.

    Returns:
        The items; they have the column `more_images` only if an item has several images.
    """
    paths = paths.list.drop_nulls()
    more = paths.list.slice(1)
    changed = items.with_columns(
        image=paths.list.first(), more_images=pl.when(more.list.len() > 0).then(more)
    )
    return changed if changed["more_images"].count() else changed.drop("more_images")


def limit_images(items: pl.DataFrame, n_images: int) -> pl.DataFrame:
    """Return items with their first images only.

    Args:
        items: `tables.ITEMS`.
        n_images: Maximum number of images of an item, at least 1.
    """
    return with_images(items, image_lists(items).list.head(n_images))
