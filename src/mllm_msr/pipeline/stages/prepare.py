"""Stage "prepare": build interactions, items, splits and candidates from raw data.

Section "Experimental Setup" of the paper.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mllm_msr import registry
from mllm_msr.config.settings import DataSettings, ImagesSettings
from mllm_msr.data.data_report import DataReport
from mllm_msr.data.image_columns import image_lists, limit_images, with_images
from mllm_msr.data.image_download import fetch_images
from mllm_msr.data.image_store import allowed_folders, store_images
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import match_items, prepare_interactions
from mllm_msr.data.source_report import describe_source, with_filtering
from mllm_msr.data.splits import released_code_interactions, released_code_split, split_users
from mllm_msr.errors import DataError
from mllm_msr.interfaces import RawData
from mllm_msr.prompts.item_types import find_item_type
from mllm_msr.storage import layout

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
        image_folders: Folders outside the run folder that contain images of `items`.
        counts: Numbers of rows that were read, kept and dropped, by reason.
        report: What was understood of the data.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    splits: pl.DataFrame
    candidates: pl.DataFrame
    image_folders: list[str]
    counts: dict[str, int]
    report: DataReport


def load(dataset: str, settings: DataSettings) -> RawData:
    """Read the files of a dataset.

    Args:
        dataset: Name of the dataset.
        settings: The section `data`, with the arguments of the dataset.

    Raises:
        DataError: A file is missing or unreadable.
        UsageError: The dataset's word for an item cannot be used in prompts.
    """
    raw = registry.find_dataset(dataset)(**settings.plugin_kwargs()).load()
    find_item_type(raw.item_type)  # before later stages, which render prompts
    return raw


def prepare(
    raw: RawData,
    settings: DataSettings,
    *,
    block_size: int,
    images: ImagesSettings,
    run_folder: Path,
    reads_images: bool = True,
) -> Prepared:
    """Filter and split raw data, sample the candidates, and store the images.

    Args:
        raw: Content of the dataset.
        settings: The section `data`.
        block_size: Items per block of the stage "infer"; training targets follow blocks.
        images: Whether and how images are stored and downloaded.
        run_folder: The run folder, as an absolute path; images are written to it.
        reads_images: Whether a model reads images, see `config.checks.image_readers`.

    Raises:
        DataError: A value of the data cannot be used, the data make a run useless, such as item
            ids that match nothing, or they are too small for the settings.
    """
    report = _describe(raw, images, reads_images=reads_images)
    report.require_usable()
    interactions, counts = _filter(raw, settings)
    report = with_filtering(report, interactions, counts, raw.items)
    for warning in report.warnings:
        logger.warning("%s", warning)
    interactions, splits, candidates = _split(interactions, settings, block_size)
    items, item_counts = match_items(interactions, limit_images(raw.items, images.per_item))
    if images.download and raw.image_urls is not None:
        items, download_counts = _download(
            items, raw.image_urls, images, run_folder / layout.DOWNLOADS
        )
        item_counts |= download_counts
    found_in = None if raw.images is None else raw.images.folder
    allowed = allowed_folders(items, [settings.plugin_kwargs().get("path"), found_in])
    items, image_counts = store_images(
        items, run_folder, images, allowed=allowed, reads_images=reads_images
    )
    report = replace(report, n_incomplete=image_counts.get("images_incomplete", 0))
    outside = [] if images.store else [str(folder) for folder in allowed]
    counts = {**counts, **item_counts, **image_counts, "candidates": candidates.height}
    return Prepared(interactions, items, splits, candidates, outside, counts, report)


def check(
    raw: RawData,
    settings: DataSettings,
    *,
    block_size: int,
    images: ImagesSettings | None = None,
    reads_images: bool = True,
) -> DataReport:
    """Report what `prepare` would understand of raw data, without its results.

    Args:
        raw: Content of the dataset.
        settings: The section `data`.
        block_size: Items per block of the stage "infer".
        images: Whether images will be downloaded, and how many of each item are used.
        reads_images: As for `prepare`.

    Raises:
        DataError: The interactions cannot be read.
    """
    report = _describe(raw, images or ImagesSettings(), reads_images=reads_images)
    if not report.n_interactions:
        return report
    try:
        interactions, counts = _filter(raw, settings)
        report = with_filtering(report, interactions, counts, raw.items)
        _split(interactions, settings, block_size)
    except DataError as error:
        report = report.with_problem(str(error))
    return report


def _describe(raw: RawData, images: ImagesSettings, *, reads_images: bool) -> DataReport:
    return describe_source(
        raw,
        download_images=images.download,
        images_per_item=images.per_item,
        reads_images=reads_images,
    )


def _filter(raw: RawData, settings: DataSettings) -> tuple[pl.DataFrame, dict[str, int]]:
    """Filter and order the interactions, and count them."""
    return prepare_interactions(
        raw.interactions,
        min_user_interactions=settings.min_user_interactions,
        min_item_interactions=settings.min_item_interactions,
        duplicates=settings.duplicates,
        max_users=settings.max_users,
        user_sample=settings.user_sample,
        seed=settings.seed,
    )


def _split(
    interactions: pl.DataFrame, settings: DataSettings, block_size: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the interactions in the order of the protocol, the splits and the candidates."""
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
    return interactions, splits, candidates


def _download(
    items: pl.DataFrame, urls: pl.DataFrame, settings: ImagesSettings, folder: Path
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Download the images of items without an image, and count the results."""
    absent = items.filter(pl.col("image").is_null())
    wanted = urls.join(absent, on="item_id", how="semi", maintain_order="left")
    wanted = wanted.group_by("item_id", maintain_order=True).head(settings.per_item)
    fetched = fetch_images(
        wanted, folder, **settings.model_dump(include={"allowed_hosts", "max_bytes", "concurrency"})
    )
    failed = fetched.filter(pl.col("status") != "ok")
    for row in failed.head(_MAX_WARNINGS).iter_rows(named=True):
        logger.warning("Item %s has no image: %s", row["item_id"], row["reason"])
    good = (
        fetched.drop_nulls("image")
        .group_by("item_id", maintain_order=True)
        .agg(pl.col("image").unique(maintain_order=True))
    )
    downloaded = items.select("item_id").join(good, on="item_id", how="left", maintain_order="left")
    found = (
        pl.when(items["image"].is_null()).then(downloaded["image"]).otherwise(image_lists(items))
    )
    counts = {f"download_{status}": n for status, n in fetched["status"].value_counts().iter_rows()}
    return with_images(items, items.select(found).to_series()), counts
