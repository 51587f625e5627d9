"""Runs an experiment on a run folder over several seeds and judges its rows on common users.

On the generated data a seed is another world: other users, pooled with the first world's. On all
other data it is another start of training on the same users, over which each user's values are
averaged before anything else. Either way the user stays the unit of chance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.errors import UnknownNameError
from mllm_msr.evaluation.aggregation import SEED_MARK
from mllm_msr.evaluation.evaluator import Evaluation, evaluate_scores
from mllm_msr.experiments._common import Experiment, Measured, Row
from mllm_msr.experiments._results import Findings, write_results
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import layout

_WORLD_MARK: Final = "/"


def run_experiment(
    experiment: Experiment,
    pipeline: Pipeline,
    *,
    seeds: Sequence[int] | None = None,
    rows: Sequence[str] | None = None,
) -> Path:
    """Measure, judge and write one experiment; what was done before is kept.

    Args:
        experiment: What to do.
        pipeline: The run folder that it is done on and under.
        seeds: Seeds to repeat it with; the run's own alone where it is None.
        rows: Names of the rows that are wanted, the one first that the others are tested
            against; all, in the experiment's order, where it is None.

    Returns:
        The folder of the results, `experiments/NAME` in the run folder.

    Raises:
        StaleStageError: A stage is done under other settings.
        UnknownNameError: The experiment has no row of a name.
    """
    settings = pipeline.settings
    wanted = _wanted(experiment.rows(settings), rows)
    worlds = settings.dataset == "demo"
    chosen = list(dict.fromkeys(seeds or [own_seed(settings)]))
    found: dict[int, Mapping[str, Measured]] = {}
    for seed in chosen:
        with _at_seed(pipeline, seed) as run:
            found[seed] = experiment.measure(run, wanted)
    evaluation = _judge(found, settings, worlds=worlds)
    findings = Findings(
        rows=wanted,
        evaluation=evaluation,
        per_user=_with_seeds(evaluation.per_user, chosen, worlds=worlds),
        seeds=tuple(chosen),
        worlds=worlds,
        settings=settings,
        model=_model(pipeline),
    )
    folder = pipeline.run.inside(f"{layout.EXPERIMENTS}/{experiment.name}")
    write_results(experiment, findings, folder)
    return folder


def own_seed(settings: Settings) -> int:
    """The seed that a run has by itself: that of its world, or of its training."""
    if settings.dataset == "demo":
        return int(settings.data.plugin_kwargs().get("world_seed", 0))
    return settings.train.seed


def _wanted(rows: Sequence[Row], names: Sequence[str] | None) -> Sequence[Row]:
    if names is None:
        return rows
    by_name = {row.name: row for row in rows}
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise UnknownNameError(
            needed=f"rows out of {', '.join(by_name)}",
            received=", ".join(unknown) or "none",
            remedy="name at least one of them, separated by commas",
        )
    return [by_name[name] for name in dict.fromkeys(names)]


@contextlib.contextmanager
def _at_seed(pipeline: Pipeline, seed: int) -> Iterator[Pipeline]:
    settings = pipeline.settings
    if seed == own_seed(settings):
        yield pipeline
    elif settings.dataset == "demo":
        other = override(settings, [f"data.world_seed={seed}"])
        with pipeline.fork(f"world{seed}", other) as run:
            yield run
    else:
        pipeline.run_until("infer")
        other = override(settings, [f"train.seed={seed}"])
        shares = ("prepare", "summarize", "infer")
        with pipeline.fork(f"seed{seed}", other, shares=shares) as run:
            yield run


def _judge(
    found: Mapping[int, Mapping[str, Measured]], settings: Settings, *, worlds: bool
) -> Evaluation:
    scores: dict[str, list[pl.DataFrame]] = {}
    ranks: dict[str, list[pl.DataFrame]] = {}
    several = len(found) > 1
    for seed, rows in found.items():
        for name, measured in rows.items():
            key = f"{name}{SEED_MARK}{seed}" if several and not worlds else name
            frames = (measured.scores, measured.ranks)
            if worlds:
                mark = pl.lit(f"{seed}{_WORLD_MARK}")
                frames = (
                    frames[0].with_columns(user_id=mark + pl.col("user_id")),
                    frames[1].with_columns(user_id=mark + pl.col("user_id")),
                )
            scores.setdefault(key, []).append(frames[0])
            ranks.setdefault(key, []).append(frames[1])
    return evaluate_scores(
        {name: pl.concat(frames) for name, frames in scores.items()},
        ranks={name: pl.concat(frames) for name, frames in ranks.items()},
        **settings.evaluate.model_dump(mode="json"),
    )


def _with_seeds(per_user: pl.DataFrame, seeds: Sequence[int], *, worlds: bool) -> pl.DataFrame:
    """The values per user with a column `seed`, instead of a mark in a name."""
    if worlds:
        parts = pl.col("user_id").str.splitn(_WORLD_MARK, 2).struct
        return per_user.with_columns(
            seed=parts.field("field_0").cast(pl.Int64), user_id=parts.field("field_1")
        )
    parts = pl.col("model").str.splitn(SEED_MARK, 2).struct
    seed = parts.field("field_1").cast(pl.Int64).fill_null(seeds[0])
    return per_user.with_columns(seed=seed, model=parts.field("field_0"))


def _model(pipeline: Pipeline) -> str:
    """Identity of the model that the run asks, as its manifest has it."""
    entries = pipeline.run.stages.values()
    return next((entry["model"] for entry in entries if entry["model"]), "none")
