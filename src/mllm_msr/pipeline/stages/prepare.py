"""Stage "prepare": build interactions, items, splits and candidates from raw data.

Section "Experimental Setup" of the paper.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mllm_msr.config.settings import DataSettings, ImagesSettings
from mllm_msr.data.image_download import fetch_images
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import match_items, prepare_interactions
from mllm_msr.data.splits import released_code_interactions, released_code_split, split_users
from mllm_msr.interfaces import RawData

logger = logging.getLogger(__name__)

_MAX_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tables of the stage "prepare", the input of all later stages.

    Attributes:
        interactions: `tables.INTERACTIONS`.
        items: `tables.ITEMS` of the remaining items.
        splits: `tables.SPLITS`.
        candidates: `tables.CANDIDATES`.
        counts: Numbers of rows that were read, kept and dropped, by reason.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    splits: pl.DataFrame
    candidates: pl.DataFrame
    counts: dict[str, int]


def prepare(
    raw: RawData,
    settings: DataSettings,
    *,
    block_size: int,
    images: ImagesSettings,
    image_folder: Path,
) -> Prepared:
    """Filter and split raw data, and sample the candidates.

    Args:
        raw: Content of the dataset.
        settings: The section `data`.
        block_size: Items per block of the stage "infer"; training targets follow blocks.
        images: Whether and how linked images are downloaded.
        image_folder: Folder for downloaded images.
    """
    interactions, counts = prepare_interactions(
        raw.interactions,
        min_user_interactions=settings.min_user_interactions,
        min_item_interactions=settings.min_item_interactions,
        duplicates=settings.duplicates,
        max_users=settings.max_users,
        seed=settings.seed,
    )
    if settings.protocol == "released-code":
        interactions = released_code_interactions(interactions)
        splits = released_code_split(interactions)
    else:
        splits = split_users(
            interactions,
            folds=settings.folds,
            validation_fraction=settings.validation_fraction,
            seed=settings.seed,
        )
    candidates = draw_candidates(
        interactions,
        splits,
        negatives=settings.negatives,
        n_negatives=settings.n_negatives,
        train_negatives=settings.train_negatives,
        train_targets=settings.train_targets,
        block_size=block_size,
        folds=settings.run_folds,
        max_test_users=settings.max_test_users,
        max_validation_users=settings.max_validation_users,
        seed=settings.seed,
    )
    items, item_counts = match_items(interactions, raw.items)
    if images.download and raw.image_urls is not None:
        items, download_counts = _download(items, raw.image_urls, images, image_folder)
        item_counts |= download_counts
    counts = {**counts, **item_counts, "candidates": candidates.height}
    return Prepared(interactions, items, splits, candidates, counts)


def _download(
    items: pl.DataFrame, urls: pl.DataFrame, settings: ImagesSettings, folder: Path
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Download the images of items without an image, and count the results."""
    wanted = urls.join(items.filter(pl.col("image").is_null()), on="item_id", how="semi")
    fetched = fetch_images(wanted, folder, **settings.model_dump(exclude={"download"}))
    failed = fetched.filter(pl.col("status") != "ok")
    for row in failed.head(_MAX_WARNINGS).iter_rows(named=True):
        logger.warning("Item %s has no image: %s", row["item_id"], row["reason"])
    downloaded = fetched.select("item_id", downloaded="image")
    joined = items.join(downloaded, on="item_id", how="left", maintain_order="left")
    filled = joined.with_columns(pl.coalesce("image", "downloaded").alias("image"))
    counts = {f"download_{status}": n for status, n in fetched["status"].value_counts().iter_rows()}
    return filled.select(items.columns), counts
