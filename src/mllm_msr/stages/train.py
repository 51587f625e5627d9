"""Stage "train": the recommender is fine-tuned in every fold that was prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from mllm_msr.recommender.options import TrainingOptions
from mllm_msr.store import Stage
from mllm_msr.workspace import Workspace


def run(work: Workspace) -> None:
    """Fine-tune the recommender, unless the settings say not to."""
    if not work.settings.train.enabled:
        return
    arguments = work.settings.train.model_dump(mode="json", exclude={"enabled", "max_text_tokens"})
    model = work.settings.model.model_dump(mode="json")
    for fold in work.folds():
        with work.stage(
            f"train/{fold}",
            {**arguments, "max_text_tokens": work.settings.train.max_text_tokens, "model": model},
            inputs=["items", "summaries", "preferences", "candidates"],
            templates=["recommend"],
        ) as stage:
            if not stage.finished:
                _train_fold(work, stage, fold, arguments)


def _train_fold(work: Workspace, stage: Stage, fold: int, arguments: Mapping[str, Any]) -> None:
    # Lightning takes seconds to import, and a run that is finished needs none of it.
    from mllm_msr.recommender.trainer import train

    rows = work.candidates(fold)
    uniform = pl.col("negatives") == "uniform"
    summary = train(
        list(work.examples(rows.filter(pl.col("split") == "train"))),
        list(work.examples(rows.filter((pl.col("split") == "validation") & uniform))),
        checkpoint=work.checkpoint(),
        output=work.run.folder / work.training_folder(fold),
        options=TrainingOptions(**arguments),
        revision=work.settings.model.further().get("revision"),
    )
    stage.register(work.adapter(fold))
    stage.count(
        best_auc=summary.best_auc if summary.best_auc is not None else math.nan,
        best_step=summary.best_step,
        steps=summary.steps,
        samples_per_second=summary.samples_per_second,
    )
