"""Input and output of the stages: read their tables, run them, and write their results.

There is one function per stage, in the order of the pipeline. A stage that is finished with the
same conditions is skipped; see `storage/run_folder.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence

import polars as pl

from mllm_msr.config.checks import image_readers
from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.backends import open_backend, open_cached
from mllm_msr.pipeline.context import RunContext, changed, mllm_inputs
from mllm_msr.pipeline.recommenders import Recommenders
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.pipeline.stage_settings import (
    infer_settings,
    prepare_settings,
    require_images,
    score_settings,
    summarize_settings,
    train_settings,
)
from mllm_msr.pipeline.stages import evaluate as evaluate_stage
from mllm_msr.pipeline.stages import infer as infer_stage
from mllm_msr.pipeline.stages import prepare as prepare_stage
from mllm_msr.pipeline.stages import report as report_stage
from mllm_msr.pipeline.stages import score as score_stage
from mllm_msr.pipeline.stages import summarize as summarize_stage
from mllm_msr.pipeline.stages import train as train_stage
from mllm_msr.ranker.calibration import IDENTITY
from mllm_msr.ranker.distributed.launch import (
    ProcessGroup,
    launched_by_torchrun,
    process_group,
    require_launcher,
)
from mllm_msr.ranker.examples import template_name
from mllm_msr.ranker.recommender import MLLM_MSR, MllmRecommender
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import Stage
from mllm_msr.summarization.items import n_prompts as n_summary_prompts
from mllm_msr.summarization.preferences import n_prompts as n_preference_prompts
from mllm_msr.tables import CALIBRATION


def prepare(context: RunContext, settings: Settings) -> None:
    """Read, filter and split the data, and sample the candidates."""
    with context.stage("prepare", prepare_settings(settings)) as stage:
        if stage.finished:
            require_images(context, settings)
            return
        raw = prepare_stage.load(settings.dataset, settings.data)
        prepared = prepare_stage.prepare(
            raw,
            settings.data,
            block_size=settings.infer.block_size,
            images=settings.images,
            run_folder=context.run.folder,
            reads_images=bool(image_readers(settings)),
        )
        stage.write(layout.INTERACTIONS, prepared.interactions)
        stage.write(layout.ITEMS, prepared.items)
        stage.write(layout.SPLITS, prepared.splits)
        stage.write(layout.CANDIDATES, prepared.candidates)
        source = {
            "item_type": raw.item_type,
            "ordered_by": raw.ordered_by,
            "image_folders": prepared.image_folders,
        }
        stage.write_text(layout.DATASET, json.dumps(source, indent=2))
        stage.write_text(layout.DATA_REPORT, json.dumps(prepared.report.to_dict(), indent=2))
        stage.count(**prepared.counts)
        context.announces(layout.DATA_REPORT)  # its warnings


def summarize(context: RunContext, settings: Settings) -> None:
    """Summarize the run's items if `summarize.enabled` is set."""
    section = settings.summarize
    if not section.enabled:
        return
    tables = RunTables(context.run)
    with (
        _backend(context, settings, section.model) as backend,
        context.stage(
            "summarize",
            summarize_settings(settings),
            inputs=[layout.ITEMS, layout.INTERACTIONS],
            prompt_templates=summarize_stage.TEMPLATES,
            item_type=(item_type := tables.item_type(settings)),
            model=backend.fingerprint,
        ) as stage,
    ):
        if stage.finished:
            return
        items = summarize_stage.items_to_summarize(
            tables.items(), tables.histories(), section, settings.infer
        )
        n_prompts = n_summary_prompts(items, section.modalities)
        with context.progress("summarize", n_prompts) as advance:
            summaries, counts = summarize_stage.summarize_items(
                items, backend, section, item_type=item_type, progress=advance
            )
        stage.write(layout.SUMMARIES, summaries)
        stage.count(**counts, **backend.usage())


def infer(context: RunContext, settings: Settings) -> None:
    """Infer the preferences of the run's users if `infer.enabled` is set."""
    section = settings.infer
    if not section.enabled:
        return
    tables = RunTables(context.run)
    every_block = settings.data.train_targets != "last"
    with (
        _backend(context, settings, section.model) as backend,
        context.stage(
            "infer",
            infer_settings(settings),
            inputs=[layout.INTERACTIONS, layout.SUMMARIES],
            prompt_templates=infer_stage.TEMPLATES,
            item_type=(item_type := tables.item_type(settings)),
            model=backend.fingerprint,
        ) as stage,
    ):
        if stage.finished:
            return
        histories = tables.histories()
        n_prompts = n_preference_prompts(
            histories, block_size=section.block_size, max_items=section.max_items
        )
        with context.progress("infer", n_prompts) as advance:
            preferences, counts = infer_stage.infer(
                histories,
                tables.summaries(),
                backend,
                section,
                item_type=item_type,
                every_block=every_block,
                progress=advance,
            )
        stage.write(layout.PREFERENCES, preferences)
        stage.count(**counts, **backend.usage())


def train(context: RunContext, settings: Settings) -> None:
    """Fine-tune MLLM-MSR in every fold if `train.enabled` is set.

    Raises:
        SystemExit: This process was a worker of a training run that has finished.
    """
    if not settings.train.enabled:
        return
    recommenders = Recommenders(context, settings)
    with process_group() as group:
        if context.run.is_worker and launched_by_torchrun(os.environ):
            require_launcher(settings.train.nodes, settings.train.devices)
            for fold in group.announced_folds():
                _train_fold(recommenders, fold, is_worker=True)
        else:
            _train_folds(context, settings, recommenders, group)
    if context.run.is_worker and launched_by_torchrun(os.environ):
        raise SystemExit(0)


def _train_folds(
    context: RunContext, settings: Settings, recommenders: Recommenders, group: ProcessGroup
) -> None:
    with contextlib.closing(open_backend(aligned(settings, context.run))) as backend:
        fingerprint = backend.fingerprint
    for fold in recommenders.tables.folds():
        with context.stage(
            f"train/{fold}",
            train_settings(settings, recommenders),
            inputs=mllm_inputs(settings),
            prompt_templates=[template_name(settings.recommend)],
            item_type=recommenders.item_type,
            model=fingerprint,
        ) as stage:
            if not stage.finished:
                _train_in_stage(stage, recommenders, fold, settings, group)
    group.announce_fold(None)


def _train_in_stage(
    stage: Stage, recommenders: Recommenders, fold: int, settings: Settings, group: ProcessGroup
) -> None:
    if recommenders.is_worker:
        _train_fold(recommenders, fold, is_worker=True)
        # Lightning started this process only for this fold.
        raise SystemExit(0)
    require_launcher(settings.train.nodes, settings.train.devices)
    group.announce_fold(fold)
    counts = _train_fold(recommenders, fold, is_worker=False)
    stage.register(recommenders.weights(fold))
    stage.count(**counts)


def _train_fold(recommenders: Recommenders, fold: int, *, is_worker: bool) -> dict[str, float]:
    model = recommenders.mllm(MLLM_MSR, fold, is_worker=is_worker)
    return train_stage.train(model, recommenders.training_data(MLLM_MSR, fold))


def score(context: RunContext, settings: Settings, *, names: Sequence[str] | None = None) -> None:
    """Score the test candidates with recommenders.

    Args:
        context: The run.
        settings: The run's settings.
        names: Names of the recommenders; None for all in the settings.
    """
    recommenders = Recommenders(context, settings)
    for name in recommenders.names() if names is None else names:
        _score_model(context, settings, recommenders, name)
    shutil.rmtree(context.run.inside(layout.BASELINE_STATES), ignore_errors=True)


def _score_model(
    context: RunContext, settings: Settings, recommenders: Recommenders, name: str
) -> None:
    conditions = recommenders.conditions(name)
    with context.stage(
        f"score/{name}",
        score_settings(settings, recommenders, name),
        inputs=conditions.inputs,
        prompt_templates=conditions.prompt_templates,
        item_type=recommenders.item_type if conditions.prompt_templates else None,
        model=conditions.model,
    ) as stage:
        if stage.finished:
            return
        tables = recommenders.tables
        interactions, item_ids = tables.interactions(), tables.items()["item_id"]
        parts: list[score_stage.Scores] = []
        calibrations: list[tuple[int, float, float]] = []
        usage = Counter[str]()
        for fold in tables.folds():
            with contextlib.closing(recommenders.fitted(name, fold)) as model:
                part = score_stage.score(
                    model,
                    name,
                    tables.candidates(fold, "test"),
                    settings.score,
                    visible=recommenders.training_data(name, fold).interactions,
                    interactions=interactions,
                    item_ids=item_ids,
                    seed=settings.data.seed,
                )
                usage.update(model.usage())
                if isinstance(model, MllmRecommender) and model.calibration != IDENTITY:
                    fitted = model.calibration
                    calibrations.append((fold, fitted.temperature, fitted.bias))
            parts.append(part)
        scores = pl.concat(part.scores for part in parts)
        ranks = pl.concat(part.ranks for part in parts)
        stage.write(f"{layout.SCORES}/{name}", scores)
        stage.write(f"{layout.RANKS}/{name}", ranks)
        stage.write(f"{layout.TOP}/{name}", pl.concat(part.top for part in parts))
        if calibrations:
            table = pl.DataFrame(calibrations, schema=dict(CALIBRATION), orient="row")
            stage.write(f"{layout.CALIBRATION}/{name}", table)
        stage.count(scores=scores.height, full_users=ranks.height, **usage)


def evaluate(context: RunContext, settings: Settings) -> None:
    """Evaluate all models with scores."""
    run, tables = context.run, RunTables(context.run)
    models = tables.scored_models()
    per_model = (layout.SCORES, layout.RANKS, layout.TOP)
    calibrated = [name for name in models if run.has(f"{layout.CALIBRATION}/{name}")]
    inputs = [
        *(f"{table}/{name}" for name in models for table in per_model),
        *(f"{layout.CALIBRATION}/{name}" for name in calibrated),
        *(layout.INTERACTIONS, layout.ITEMS, layout.SPLITS, layout.CANDIDATES),
    ]
    conditions = changed(settings.evaluate)
    with context.stage("evaluate", conditions, inputs=inputs, derived=True) as stage:
        if stage.finished:
            return
        positives = (pl.col("split") == "test") & (pl.col("label") == 1)
        test_users = evaluate_stage.describe_test_users(
            tables.interactions(),
            run.read(layout.SPLITS),
            run.scan(layout.CANDIDATES).filter(positives).collect(),
            run.read(layout.ITEMS)["item_id"],
            folds=tables.folds(),
            top={name: run.read(f"{layout.TOP}/{name}") for name in models},
        )
        evaluation = evaluate_stage.evaluate(
            {name: run.read(f"{layout.SCORES}/{name}") for name in models},
            settings.evaluate,
            ranks={name: run.read(f"{layout.RANKS}/{name}") for name in models},
            context=test_users,
            calibrations={name: run.read(f"{layout.CALIBRATION}/{name}") for name in calibrated},
        )
        stage.write(layout.TARGET_PROFILES, test_users.profiles)
        stage.write(layout.METRICS_PER_USER, evaluation.per_user)
        stage.write_text(layout.METRICS, json.dumps(evaluation.summary, indent=2))
        stage.write_text(layout.DETAILS, json.dumps(evaluation.details, indent=2))
        stage.count(models=len(evaluation.summary))


def report(context: RunContext, settings: Settings) -> None:
    """Write `report.html` and `report.md`."""
    run, tables = context.run, RunTables(context.run)
    models = tables.scored_models()
    tables_shown = (*report_stage.INPUTS, *(f"{layout.SCORES}/{name}" for name in models))
    inputs = [name for name in tables_shown if run.has(name)]
    stages = {name: entry for name, entry in run.stages.items() if name != "report"}
    shown = report_stage.digests(settings, stages)
    conditions = changed(settings.report)
    with context.stage("report", conditions, inputs=inputs, shown=shown, derived=True) as stage:
        if stage.finished:
            return
        report_stage.report(
            run.folder,
            settings,
            metrics=run.read_json(layout.METRICS),
            details=run.read_json(layout.DETAILS),
            manifest=stages,
            scores={name: run.scan(f"{layout.SCORES}/{name}") for name in models},
            interactions=tables.interactions(),
            items=tables.items(),
            summaries=tables.summaries() if run.has(layout.SUMMARIES) else None,
            preferences=tables.preferences() if run.has(layout.PREFERENCES) else None,
            data=tables.data_report(),
            requires_llm=Recommenders(context, settings).requires_llm,
        )
        stage.register(layout.REPORT_HTML)
        stage.register(layout.REPORT_MARKDOWN)


@contextlib.contextmanager
def _backend(
    context: RunContext, settings: Settings, model: ModelSettings | None
) -> Iterator[CachedBackend]:
    """Open the model of a stage, by default the model of the run, behind the response cache."""
    used = model or aligned(settings, context.run)
    with contextlib.closing(open_cached(used, context.run.cache, settings.executor)) as backend:
        yield backend
