"""Stage "prepare": raw data becomes interactions, items, splits and candidates."""

from __future__ import annotations

import json
from typing import cast

import polars as pl

from mllm_msr import registry
from mllm_msr.data.interactions import match_items, prepare_interactions
from mllm_msr.data.negatives import draw_candidates
from mllm_msr.data.splits import (
    paper_code_interactions,
    paper_code_split,
    split_users,
)
from mllm_msr.interfaces import Dataset
from mllm_msr.settings import DataSettings
from mllm_msr.workspace import Workspace


def run(work: Workspace) -> None:
    """Read, filter and split the data, and draw the candidates."""
    data = work.settings.data
    conditions = {
        "dataset": work.settings.dataset,
        "block_size": work.settings.infer.block_size,
        **data.model_dump(mode="json"),
    }
    with work.stage("prepare", conditions) as stage:
        if stage.finished:
            return
        dataset = registry.find("datasets", work.settings.dataset)
        raw = cast("Dataset", dataset(**data.further())).load()
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
        stage.write("interactions", interactions)
        stage.write("items", work.relative_images(items))
        stage.write("splits", splits)
        stage.write("candidates", candidates)
        # What the later stages and the report need to know of the source.
        about = {"noun": raw.noun, "ordered_by": raw.ordered_by}
        stage.write_text("dataset.json", json.dumps(about, indent=2))
        stage.count(**{**counts, **item_counts}, candidates=candidates.height)


def _split(interactions: pl.DataFrame, data: DataSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    if data.protocol == "paper-code":
        interactions = paper_code_interactions(interactions)
        return interactions, paper_code_split(interactions)
    splits = split_users(
        interactions,
        folds=data.folds,
        validation_fraction=data.validation_fraction,
        seed=data.seed,
    )
    return interactions, splits
