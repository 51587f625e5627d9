"""Stage "distill" (optional): let the MLLM score items for training users, and fit the student.

A student without teacher scores selects the pairs that it is unsure about, the MLLM scores them,
and the student is fitted again with these scores (`baselines/student.py`). Only training users and
items that are new to them are scored, so no target of a validation or test user is among them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from typing import cast

import polars as pl

from mllm_msr.baselines import _factory
from mllm_msr.baselines._distillation.selection import unsure_pairs
from mllm_msr.config.generators import STUDENT
from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.interfaces import CatalogScorer, TrainingData
from mllm_msr.pipeline.context import RunContext, changed
from mllm_msr.pipeline.recommenders import Recommenders, ranker_name
from mllm_msr.ranker.recommender import VARIANTS, MllmRecommender
from mllm_msr.ranker.training_candidates import with_input
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import Stage
from mllm_msr.tables import TEACHER, conform


def requires_teacher(settings: Settings, names: Iterable[str]) -> bool:
    """Return whether one of some recommenders, or a member of it, is a student with a teacher."""
    if not settings.distill.enabled:
        return False
    return any(
        STUDENT in (name, *_factory.member_names(name, settings.baselines.arguments(name)))
        for name in names
        if name not in VARIANTS
    )


def distill(context: RunContext, settings: Settings) -> None:
    """Compute teacher scores and fit the student in every fold if `distill.enabled` is set.

    Raises:
        RunFolderError: The MLLM has no preferences or weights yet.
    """
    if not settings.distill.enabled:
        return
    recommenders = Recommenders(context, settings)
    # The student that selects the pairs has no teacher.
    alone = ["distill.enabled=false", f"baselines.{STUDENT}.distillation=0"]
    first = Recommenders(context, override(settings, alone))
    name = ranker_name(settings)
    student, teacher = first.conditions(STUDENT), recommenders.conditions(name)
    for fold in recommenders.tables.folds():
        with context.stage(
            f"distill/{fold}",
            {
                **student.settings,
                **teacher.settings,
                **changed(settings.distill, "distill.", exclude=["enabled"]),
            },
            inputs=[*dict.fromkeys([*student.inputs, *teacher.inputs])],
            prompt_templates=teacher.prompt_templates,
            item_type=recommenders.item_type,
            model=teacher.model,
        ) as stage:
            if not stage.finished:
                selected = _select(first, fold, settings)
                with contextlib.closing(recommenders.fitted(name, fold)) as model:
                    data = recommenders.training_data(name, fold)
                    _score(stage, cast("MllmRecommender", model), fold, selected, data)
        with contextlib.closing(recommenders.fitted(STUDENT, fold)):
            pass  # stored in the cache of the run
    shutil.rmtree(context.run.inside(layout.BASELINE_STATES), ignore_errors=True)


def _select(first: Recommenders, fold: int, settings: Settings) -> pl.DataFrame:
    """Return the pairs to score: `user_id`, `position` and `item_id`."""
    data = first.training_data(STUDENT, fold)
    is_target = (pl.col("split") == "train") & (pl.col("label") == 1)
    preferences = data.preferences if settings.recommend.reads_preference else None
    targets = with_input(data.candidates.filter(is_target), settings.recommend, preferences)
    with contextlib.closing(first.fitted(STUDENT, fold)) as student:
        return unsure_pairs(
            cast("CatalogScorer", student),
            targets,
            data.interactions,
            list_size=settings.distill.list_size,
            budget=settings.distill.budget,
        )


def _score(
    stage: Stage, model: MllmRecommender, fold: int, pairs: pl.DataFrame, data: TrainingData
) -> None:
    """Write the calibrated scores of the teacher."""
    scored = model.score(pairs, data.interactions)
    table = scored.with_columns(model.calibration.apply_to_scores(scored["score"]))
    stage.write(f"{layout.TEACHER}/{fold}", conform(table, TEACHER, name="teacher"))
    stage.count(
        pairs=table.height,
        lists=table.select("user_id", "position").n_unique(),
        users=table["user_id"].n_unique(),
        **model.usage(),
    )
