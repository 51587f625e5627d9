"""Stage "train": the recommender is fine-tuned in every fold that was prepared."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from mllm_msr.pipeline.context import Workspace
from mllm_msr.ranker.distributed.launch import (
    ProcessGroup,
    launched_by_torchrun,
    process_group,
    require_launcher,
    temporary_process_group,
)
from mllm_msr.ranker.training.fingerprint import training_fingerprint
from mllm_msr.storage.run_folder import Stage

if TYPE_CHECKING:
    from mllm_msr.ranker.training.trainer import Show, TrainingSummary


def run(work: Workspace) -> None:
    """Fine-tune the recommender, unless the settings say not to."""
    if not work.settings.train.enabled:
        return
    with process_group() as group:
        if work.run.is_worker and launched_by_torchrun(os.environ):
            require_launcher(work.settings.train.nodes, work.settings.train.devices)
            for fold in group.announced_folds():
                _fit(work, fold)
            raise SystemExit(0)
        _train_folds(work, group)
        group.announce_fold(None)


def _train_folds(work: Workspace, group: ProcessGroup) -> None:
    with contextlib.closing(work.bare_backend()) as backend:
        model = backend.fingerprint
    for fold in work.folds():
        with work.stage(
            f"train/{fold}",
            training_fingerprint(work.settings.train),
            inputs=["items", "summaries", "preferences", "candidates"],
            prompt_templates=["recommend"],
            model=model,
        ) as stage:
            if not stage.finished:
                _train_fold(work, stage, fold, group)


def _train_fold(work: Workspace, stage: Stage, fold: int, group: ProcessGroup) -> None:
    if work.run.is_worker:
        _fit(work, fold)
        # All that a follower is for; the rest of the command, whichever it is, is the leader's.
        raise SystemExit(0)
    require_launcher(work.settings.train.nodes, work.settings.train.devices)
    group.announce_fold(fold)
    with temporary_process_group():
        summary, n_examples = _fit(work, fold)
    stage.register(work.adapter(fold))
    stage.count(
        examples=n_examples,
        best_auc=summary.best_auc if summary.best_auc is not None else math.nan,
        best_step=summary.best_step,
        steps=summary.steps,
        samples_per_second=summary.samples_per_second,
    )


def _fit(work: Workspace, fold: int) -> tuple[TrainingSummary, int]:
    """Fine-tune in one fold.

    Returns:
        What happened, and the number of examples.
    """
    # Lightning takes seconds to import, and a run that is finished needs none of it.
    from mllm_msr.ranker.training.trainer import train

    rows = work.candidates(fold)
    uniform = pl.col("negatives") == "uniform"
    learned = _with_preference(rows.filter(pl.col("split") == "train"), work)
    summary = train(
        list(work.examples(learned)),
        list(work.examples(rows.filter((pl.col("split") == "validation") & uniform))),
        checkpoint=work.checkpoint(),
        output=work.run.folder / work.training_folder(fold),
        settings=work.settings.train,
        revision=work.settings.model.plugin_kwargs().get("revision"),
        # A state of other settings is no start for these.
        resume=not work.force,
        is_worker=work.run.is_worker,
        show=_shown(work, fold),
    )
    return summary, learned.height


def _shown(work: Workspace, fold: int) -> Show:
    @contextlib.contextmanager
    def show(n_steps: int, done: int) -> Iterator[Callable[[int], None]]:
        with work.progress(f"train {fold}", n_steps) as advance:
            advance(done)
            yield advance

    return show


def _with_preference(rows: pl.DataFrame, work: Workspace) -> pl.DataFrame:
    """Rows whose user has a preference by then: long histories may be read from later on only."""
    first = work.run.read("preferences").group_by("user_id").agg(first=pl.col("n_items").min())
    known = rows.join(first, on="user_id", how="left", maintain_order="left")
    return known.filter(pl.col("position") >= pl.col("first")).select(rows.columns)
