"""Stage "prepare": raw data becomes interactions, items, splits and candidates."""

from __future__ import annotations

import json
import logging
from typing import cast

import polars as pl

from mllm_msr import registry
from mllm_msr.config.settings import DataSettings
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import match_items, prepare_interactions
from mllm_msr.data.splits import (
    paper_code_interactions,
    paper_code_split,
    split_users,
)
from mllm_msr.interfaces import Dataset
from mllm_msr.pipeline.context import Workspace

logger = logging.getLogger(__name__)


def run(work: Workspace) -> None:
    """Read, filter and split the data, and draw the candidates."""
    data = work.settings.data
    conditions = {
        "dataset": work.settings.dataset,
        "block_size": work.settings.infer.block_size,
        "download": work.settings.images.download,
        **data.model_dump(mode="json"),
    }
    with work.stage("prepare", conditions) as stage:
        if stage.finished:
            return
        dataset = registry.find("datasets", work.settings.dataset)
        raw = cast("Dataset", dataset(**data.plugin_kwargs())).load()
        interactions, counts = prepare_interactions(
            raw.interactions,
            min_user_interactions=data.min_user_interactions,
            min_item_interactions=data.min_item_interactions,
            duplicates=data.duplicates,
            max_users=data.max_users,
            seed=data.seed,
        )
        interactions, splits = _split(interactions, data)
        candidates = draw_candidates(
            interactions,
            splits,
            negatives=data.negatives,
            n_negatives=data.n_negatives,
            train_negatives=data.train_negatives,
            train_targets=data.train_targets,
            block_size=work.settings.infer.block_size,
            folds=data.run_folds,
            max_test_users=data.max_test_users,
            max_validation_users=data.max_validation_users,
            seed=data.seed,
        )
        items, item_counts = match_items(interactions, raw.items)
        if work.settings.images.download and raw.image_urls is not None:
            items, fetched = _with_downloads(work, items, raw.image_urls)
            item_counts |= fetched
        stage.write("interactions", interactions)
        stage.write("items", work.relative_images(items))
        stage.write("splits", splits)
        stage.write("candidates", candidates)
        # What the later stages and the report need to know of the source.
        about = {"item_type": raw.item_type, "ordered_by": raw.ordered_by}
        stage.write_text("dataset.json", json.dumps(about, indent=2))
        stage.count(**{**counts, **item_counts}, candidates=candidates.height)


def _with_downloads(
    work: Workspace, items: pl.DataFrame, urls: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Fetch the images of kept items that have none, and count how that went."""
    # An HTTP client is slow to import, and most runs need none.
    from mllm_msr.data.image_download import fetch_images

    wanted = urls.join(items.filter(pl.col("image").is_null()), on="item_id", how="semi")
    fetched = fetch_images(
        wanted,
        work.run.inside("images"),
        **work.settings.images.model_dump(exclude={"download"}),
    )
    for row in fetched.filter(pl.col("status") != "ok").head(5).iter_rows(named=True):
        logger.warning("item %s has no image: %s", row["item_id"], row["reason"])
    found = fetched.select("item_id", fetched="image")
    joined = items.join(found, on="item_id", how="left", maintain_order="left")
    filled = joined.with_columns(pl.coalesce("image", "fetched").alias("image"))
    counts = {f"download_{status}": n for status, n in fetched["status"].value_counts().iter_rows()}
    return filled.select(items.columns), counts


def _split(interactions: pl.DataFrame, data: DataSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    if data.protocol == "released-code":
        interactions = paper_code_interactions(interactions)
        return interactions, paper_code_split(interactions)
    splits = split_users(
        interactions,
        folds=data.folds,
        validation_fraction=data.validation_fraction,
        seed=data.seed,
    )
    return interactions, splits
