"""Running of an experiment over several seeds, and evaluation of its systems on the same users.

For the generated dataset, each seed generates different data with different users, who are pooled.
For all other datasets, a seed is a training seed: the users are the same, and the values of each
user are averaged over the seeds. In both cases the user is the unit of resampling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr import registry
from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.errors import UnknownNameError
from mllm_msr.evaluation.aggregation import SEED_MARK
from mllm_msr.evaluation.evaluator import Evaluation, evaluate_scores
from mllm_msr.experiments._experiment import Experiment, SystemScores
from mllm_msr.experiments._results import Results, write_results
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import layout

# Separates data seed and user id, because all generated datasets use the same user ids.
_SEED_SEPARATOR: Final = "/"


def run_experiment(
    experiment: Experiment,
    pipeline: Pipeline,
    *,
    seeds: Sequence[int] | None = None,
    systems: Sequence[str] | None = None,
) -> Path:
    """Run, evaluate and write one experiment; finished work is reused.

    Args:
        experiment: The experiment.
        pipeline: The run that the experiment is based on.
        seeds: Seeds to repeat the experiment with; None for the seed of the run.
        systems: Names of the systems to score; the first one is tested against the others. None
            selects all systems in the order of the experiment.

    Returns:
        The folder of the results, `experiments/NAME` in the run folder.

    Raises:
        StaleStageError: A stage is finished with other settings.
        UnknownNameError: The experiment has no system with a given name, or no name is given.
    """
    settings = pipeline.settings
    selected = experiment.systems(settings)
    if systems is not None:
        by_name = {system.name: system for system in selected}
        if not systems:
            raise UnknownNameError(f"No system is given. Available: {', '.join(by_name)}.")
        for name in systems:
            if name not in by_name:
                raise registry.unknown_name_error("system", name, list(by_name))
        selected = [by_name[name] for name in dict.fromkeys(systems)]
    generated = settings.dataset == "demo"
    used_seeds = list(dict.fromkeys(seeds or [own_seed(settings)]))
    scores: dict[int, Mapping[str, SystemScores]] = {}
    for seed in used_seeds:
        with _open_seed(pipeline, seed) as run:
            scores[seed] = experiment.score(run, selected)
    evaluation, per_user = _evaluate(scores, settings, main=selected[0].name, pool_users=generated)
    models = (entry["model"] for entry in pipeline.run.stages.values())
    results = Results(
        systems=selected,
        evaluation=evaluation,
        per_user=per_user,
        seeds=tuple(used_seeds),
        data_seeds=generated,
        settings=settings,
        model=next((model for model in models if model), "none"),
    )
    folder = pipeline.run.inside(f"{layout.EXPERIMENTS}/{experiment.name}")
    write_results(experiment, results, folder)
    return folder


def own_seed(settings: Settings) -> int:
    """Return the seed in the settings of a run: of its generated data, or else of its training."""
    if settings.dataset == "demo":
        return int(settings.data.plugin_kwargs().get("world_seed", 0))
    return settings.train.seed


@contextlib.contextmanager
def _open_seed(pipeline: Pipeline, seed: int) -> Iterator[Pipeline]:
    """Open the variant of the run with a seed; yield the run itself if it has this seed."""
    settings = pipeline.settings
    if seed == own_seed(settings):
        yield pipeline
        return
    shares: tuple[str, ...] = ()
    if settings.dataset == "demo":
        name, change = f"data_seed_{seed}", f"data.world_seed={seed}"
    else:
        pipeline.run_until("infer")
        name, change = f"train_seed_{seed}", f"train.seed={seed}"
        shares = ("prepare", "summarize", "infer")
    with pipeline.fork(name, override(settings, [change]), shares=shares) as run:
        yield run


def _evaluate(
    by_seed: Mapping[int, Mapping[str, SystemScores]],
    settings: Settings,
    *,
    main: str,
    pool_users: bool,
) -> tuple[Evaluation, pl.DataFrame]:
    """Evaluate the scores of all seeds together.

    Args:
        by_seed: Scores by seed and system.
        settings: Settings, of which the section `evaluate` is used.
        main: The system that is tested against each other one.
        pool_users: Whether each seed has different users. Otherwise the values of each user are
            averaged over the seeds.

    Returns:
        The evaluation, and `tables.METRICS_PER_USER` with a column `seed`.
    """
    scores: dict[str, list[pl.DataFrame]] = {}
    ranks: dict[str, list[pl.DataFrame]] = {}
    # Encode the seed in the user id or in the name of the model.
    for seed, systems in by_seed.items():
        for name, system in systems.items():
            if pool_users:
                key = name
                user_id = pl.lit(f"{seed}{_SEED_SEPARATOR}") + pl.col("user_id")
            else:
                key = f"{name}{SEED_MARK}{seed}" if len(by_seed) > 1 else name
                user_id = pl.col("user_id")
            scores.setdefault(key, []).append(system.scores.with_columns(user_id=user_id))
            ranks.setdefault(key, []).append(system.ranks.with_columns(user_id=user_id))
    evaluation = evaluate_scores(
        {name: pl.concat(frames) for name, frames in scores.items()},
        ranks={name: pl.concat(frames) for name, frames in ranks.items()},
        main=main,
        **settings.evaluate.model_dump(mode="json"),
    )
    if pool_users:
        parts = pl.col("user_id").str.splitn(_SEED_SEPARATOR, 2).struct
        return evaluation, evaluation.per_user.with_columns(
            seed=parts.field("field_0").cast(pl.Int64), user_id=parts.field("field_1")
        )
    parts = pl.col("model").str.splitn(SEED_MARK, 2).struct
    return evaluation, evaluation.per_user.with_columns(
        seed=parts.field("field_1").cast(pl.Int64).fill_null(next(iter(by_seed))),
        model=parts.field("field_0"),
    )
