"""Comparison of several recommenders on the candidates of one run folder: `mllm-msr compare`.

Only the stages that the requested models need are run. The paper's ablations (section "Ablation
Study") are separate runs in `variants/`; they share all stages before the first difference with the
main run, and their scores are evaluated together with those of the other models.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from mllm_msr import registry
from mllm_msr.config.loading import override
from mllm_msr.errors import DataError, StaleStageError, UnknownNameError, UsageError
from mllm_msr.evaluation.metrics import HEADLINE
from mllm_msr.pipeline import stage_io
from mllm_msr.pipeline.distillation import requires_teacher
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.recommenders import ranker_name
from mllm_msr.pipeline.run_result import RunResult
from mllm_msr.ranker.recommender import MLLM_MSR, VARIANTS, ZERO_SHOT, Variant
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder

# Variants that are separate runs.
ABLATIONS: Final[Mapping[str, Variant]] = {
    name: variant for name, variant in VARIANTS.items() if variant.overrides
}


# Models that need a stage of this run; the ablations infer and train in runs of their own.
_USERS: Final[Mapping[str, frozenset[str]]] = {
    "summarize": frozenset(VARIANTS),
    "infer": frozenset({MLLM_MSR, ZERO_SHOT}),
    "train": frozenset({MLLM_MSR}),
}


def known_models() -> list[str]:
    """Return all names that `compare` accepts."""
    return [*VARIANTS, *registry.names("baselines")]


def compare(pipeline: Pipeline, models: Sequence[str]) -> RunResult:
    """Train, score and evaluate models on the run folder's candidates.

    Finished work is reused; the evaluation covers all models with scores in the folder. With force,
    the models are scored again and the ablations run again; earlier stages are kept.

    Args:
        pipeline: The run.
        models: Names of `known_models()`.

    Returns:
        As `Pipeline.result`, with the metrics of the requested models in their order, and with
        their `comparisons` in the headline metric, see `evaluation.comparisons.compare_models`.
        p-values are corrected for all models with scores in the folder.

    Raises:
        UsageError: `models` is a single text.
        UnknownNameError: A model does not exist, or no model is given.
        SettingsError: An argument of a baseline is out of range.
        StaleStageError: A stage was finished with other settings.
    """
    _require_models(models)
    # Add the requested models to the run's own settings.
    settings = pipeline.settings
    requested = [name for name in models if name not in VARIANTS]
    baselines = dict.fromkeys([*settings.score.baselines, *requested])
    changes = [f"score.baselines=[{', '.join(baselines)}]"]
    members = [settings.baselines.arguments(name).get("members") or () for name in requested]
    needed = {*models, *itertools.chain.from_iterable(members)}
    changes += ["train.enabled=true"] if {MLLM_MSR, *ABLATIONS} & needed else []
    changes += ["score.zero_shot=true"] if ZERO_SHOT in needed else []
    pipeline = pipeline.with_settings(override(settings, changes))
    # Before any work, and before wrong arguments are saved with the settings.
    pipeline.recommenders.require_valid(requested)
    derived = ("evaluate", "report")  # cheap, and depend only on scores
    scored = [f"score/{name}" for name in models if pipeline.context.force]
    # Force is for what this command makes, never for the hours of a training.
    kept = pipeline.with_settings(pipeline.settings, force=False)
    kept.run_stage("prepare", redone=[*derived, *scored])
    for stage, users in _USERS.items():
        if users & needed:
            kept.run_stage(stage)
    # Score only the requested models instead of all models in the settings.
    for name in models:
        if name in ABLATIONS:
            with run_variant(pipeline, ABLATIONS[name]) as variant:
                copy_scores(pipeline, name, variant.run)
        else:
            stage_io.score(pipeline.context, pipeline.settings, names=[name])
    for stage in derived:
        try:
            pipeline.run_stage(stage)
        except StaleStageError:
            pipeline.with_settings(pipeline.settings, force=True).run_stage(stage)
    result = pipeline.result()
    metrics = {name: result["metrics"][name] for name in models}
    comparisons = _comparisons(pipeline.run, models)
    return RunResult({**result, "metrics": metrics, "comparisons": comparisons})


def _require_models(models: Sequence[str]) -> None:
    if isinstance(models, str):
        raise UsageError(f"The models are {models!r}. Pass a list, for example [{models!r}].")
    if not models:
        raise UnknownNameError(f"No model is given. Available: {', '.join(known_models())}.")
    for name in models:
        if name not in known_models():
            raise registry.unknown_name_error("model", name, known_models())


def _comparisons(run: RunFolder, models: Sequence[str]) -> list[dict[str, Any]]:
    """Return the comparisons of models by the headline metric."""
    details = run.read_json(layout.DETAILS)
    return [
        record
        for record in details["comparisons"]
        if record["metric"] == HEADLINE and {record["first"], record["second"]} <= set(models)
    ]


@contextlib.contextmanager
def run_variant(pipeline: Pipeline, variant: Variant) -> Iterator[Pipeline]:
    """Run the stages of a variant up to its scores, and keep its run folder open in the block.

    Args:
        pipeline: The main run.
        variant: The variant, which states how it differs from the main run.

    Raises:
        StaleStageError: A stage of the variant was finished with other settings.
        DataError: The variant is tested on other candidates.
    """
    fine_tuned = ranker_name(pipeline.settings) == MLLM_MSR
    settings = override(
        pipeline.settings,
        [
            f"score.zero_shot={str(not fine_tuned).lower()}",
            "score.baselines=[]",
            *variant.overrides,
        ],
    )
    if not requires_teacher(settings, settings.score.baselines):
        settings = override(settings, ["distill.enabled=false"])
    with pipeline.fork(variant.name, settings, shares=variant.shares) as other:
        other.run_until("score")
        require_same_candidates(pipeline.run, other.run)
        yield other


def copy_scores(pipeline: Pipeline, name: str, variant: RunFolder) -> None:
    """Copy the scores of a variant into the run folder as those of the model `name`.

    Raises:
        StaleStageError: The run folder contains other scores of that model.
    """
    entry = variant.stages[f"score/{MLLM_MSR}"]
    hashes = {output: record["sha256"] for output, record in entry["outputs"].items()}
    with pipeline.context.stage(
        f"score/{name}", {"variant": hashes}, inputs=[layout.CANDIDATES], model=entry["model"]
    ) as stage:
        if stage.finished:
            return
        for table in (layout.SCORES, layout.RANKS, layout.TOP):
            stage.write(f"{table}/{name}", variant.read(f"{table}/{MLLM_MSR}"))
        stage.count(**entry["counts"])


def require_same_candidates(run: RunFolder, variant: RunFolder) -> None:
    """Check that two runs are tested on the same candidates.

    Raises:
        DataError: Their test candidates differ.
    """
    tested, other = (
        folder.scan(layout.CANDIDATES).filter(pl.col("split") == "test").drop("split").collect()
        for folder in (run, variant)
    )
    if not tested.sort(tested.columns).equals(other.sort(tested.columns)):
        raise DataError(
            f"The test candidates of the variant in {variant.folder} ({other.height} rows) differ "
            f"from those of the run ({tested.height} rows). Do not change settings that affect "
            "test users, items or negatives."
        )
