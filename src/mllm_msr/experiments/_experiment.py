"""Experiments: systems that are scored on one run folder, and the results in the paper.

The scores of a system come from the run itself or from a variant of it: a run folder in `variants/`
that shares all stages before the first difference. The same command therefore resumes an
interrupted experiment, and experiments share their common variants. Only the stages and models that
the systems need are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import polars as pl

from mllm_msr import registry
from mllm_msr.baselines._factory import baseline_class
from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.metrics import summary_names
from mllm_msr.pipeline import stage_io
from mllm_msr.pipeline.compare import run_variant
from mllm_msr.pipeline.distillation import requires_teacher
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.recommenders import ranker_name
from mllm_msr.ranker.recommender import MLLM_MSR, ZERO_SHOT, Variant
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder

# Folder in `variants/` with the scores of models that the run itself does not score.
_MORE_MODELS: Final = "more_models"
_SHARES: Final = ("prepare", "summarize", "infer", "train", "score")


@dataclass(frozen=True, slots=True)
class System:
    """System of an experiment: a row of a table or a point of a figure.

    Attributes:
        name: Name in the data.
        label: Name in tables and figures.
        x: Position on the axis of a sweep; None for systems without an order.
        variant: Variant of the run that scores it; None for the run itself.
        model: Name of the recommender that scores: any baseline, "mllm_msr" or "zero_shot". None
            for the MLLM recommender of the run (fine-tuned, or zero-shot if the run does not
            train).
    """

    name: str
    label: str
    x: float | None = None
    variant: Variant | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class SystemScores:
    """Scores of a system on a run folder.

    Attributes:
        scores: `tables.SCORES`.
        ranks: `tables.RANKS`.
    """

    scores: pl.DataFrame
    ranks: pl.DataFrame


ScoreSystems = Callable[[Pipeline, Sequence[System]], Mapping[str, SystemScores]]


def score_systems(pipeline: Pipeline, systems: Sequence[System]) -> dict[str, SystemScores]:
    """Run the stages that the systems need, and return the scores by system name.

    Args:
        pipeline: The run.
        systems: The systems.

    Raises:
        StaleStageError: A stage is finished with other settings.
        SettingsError: A system names a baseline that does not exist.
    """
    settings = pipeline.settings
    models = {system.name: system.model or ranker_name(settings) for system in systems}
    # Reject unknown names before any stage runs.
    override(settings, select_models(list(models.values())))
    if any(system.variant is not None for system in systems):
        pipeline.run_until("infer")
    own = score_models(pipeline, [models[s.name] for s in systems if s.variant is None])
    found: dict[str, SystemScores] = {}
    for system in systems:
        model = models[system.name]
        if system.variant is None:
            found[system.name] = own[model]
            continue
        overrides = (*select_models(required_models(settings, [model])), *system.variant.overrides)
        with run_variant(pipeline, replace(system.variant, overrides=overrides)) as variant:
            found[system.name] = read_scores(variant.run, model)
    return found


def score_models(pipeline: Pipeline, models: Sequence[str]) -> dict[str, SystemScores]:
    """Run the stages that recommenders need, and score the recommenders.

    Those that the run's settings do not score are scored in a variant, so that the evaluation of
    the run itself stays unchanged.

    Args:
        pipeline: The run.
        models: Names of baselines, "mllm_msr" or "zero_shot".

    Returns:
        The scores by model.

    Raises:
        StaleStageError: A stage is finished with other settings.
        SettingsError: A baseline does not exist.
    """
    if not models:
        return {}
    settings = pipeline.settings
    required = required_models(settings, models)
    known = pipeline.recommenders.names()
    own = [name for name in required if name in known]
    others = [name for name in required if name not in known]
    pipeline.run_until(last_stage(settings, required))
    stage_io.score(pipeline.context, settings, names=own)
    found = {name: read_scores(pipeline.run, name) for name in own}
    if others:
        extended = override(settings, select_models([*known, *others]))
        with pipeline.fork(_MORE_MODELS, extended, shares=_SHARES) as variant:
            variant.run_until(last_stage(extended, others))
            stage_io.score(variant.context, extended, names=others)
            found |= {name: read_scores(variant.run, name) for name in others}
    return found


def required_models(settings: Settings, models: Sequence[str]) -> list[str]:
    """Return recommenders, each after the MLLM recommenders that it depends on.

    These are members of an ensemble, by default MLLM-MSR if the run trains it, and the teacher of
    a student.

    Args:
        settings: Settings of the run.
        models: Names of recommenders.
    """
    required: list[str] = []
    for name in models:
        if name in registry.names("baselines"):
            members = settings.baselines.arguments(name).get("members")
            if members is None and hasattr(baseline_class(name), "default_members"):
                members = [MLLM_MSR] if settings.train.enabled else []
            if requires_teacher(settings, [name]):
                members = [*(members or ()), ranker_name(settings)]
            required += [member for member in (MLLM_MSR, ZERO_SHOT) if member in (members or ())]
        required.append(name)
    return list(dict.fromkeys(required))


def select_models(models: Sequence[str]) -> list[str]:
    """Return overrides with which a run scores these recommenders and no others.

    Args:
        models: Names of recommenders, as returned by `required_models`.
    """
    baselines = [name for name in models if name not in {MLLM_MSR, ZERO_SHOT}]
    return [
        f"train.enabled={str(MLLM_MSR in models).lower()}",
        f"score.zero_shot={str(ZERO_SHOT in models).lower()}",
        f"score.baselines=[{', '.join(baselines)}]",
    ]


def last_stage(settings: Settings, models: Sequence[str]) -> str:
    """Return the last stage before "score" that recommenders need.

    Args:
        settings: Settings of the run.
        models: Names of recommenders, as returned by `required_models`.
    """
    if requires_teacher(settings, models):
        return "distill"
    if MLLM_MSR in models:
        return "train"
    if ZERO_SHOT in models:
        return "infer"
    return "summarize" if settings.baselines.content == "image_summary" else "prepare"


def read_scores(run: RunFolder, model: str) -> SystemScores:
    """Read the scores of a model from a run folder.

    Raises:
        RunFolderError: The run folder has no scores of the model.
    """
    return SystemScores(run.read(f"{layout.SCORES}/{model}"), run.read(f"{layout.RANKS}/{model}"))


@dataclass(frozen=True, slots=True)
class Experiment:
    """Reproduction of a table or figure of the paper.

    Attributes:
        name: Name of the module.
        title: Title of the page.
        systems: Returns the systems for a run's settings; the first one is tested against the
            others.
        claim: Claim of the paper, paraphrased; empty if the experiment is not in the paper.
        axis: Label of the axis of a sweep; None for systems without an order.
        reference: Values in the paper, `{dataset: {label: {metric: value}}}`; empty if the paper
            prints none.
        metrics: Names of the metrics to show; the first one is used for significance tests.
        caveats: Caveats of the results, and of a comparison with the paper besides the differences
            in protocol.
        score: Computes the scores of the systems.
    """

    name: str
    title: str
    systems: Callable[[Settings], Sequence[System]]
    claim: str = ""
    axis: str | None = None
    reference: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    metrics: tuple[str, ...] = field(default_factory=summary_names)
    caveats: tuple[str, ...] = ()
    score: ScoreSystems = score_systems
