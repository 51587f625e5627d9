"""Experiments: systems that are scored on one run folder, and what the paper reports.

The scores of a system come from the run itself or from a variant of it: a run folder in `variants/`
that shares all stages before the difference. The same command therefore resumes an experiment that
was interrupted, and two experiments share the variants that they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.metrics import summary_names
from mllm_msr.pipeline.compare import recommender, run_variant
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.recommender import ZERO_SHOT, Variant
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class System:
    """One system of an experiment: a row of a table or a point of a figure.

    Attributes:
        name: Name in the data.
        label: Name in tables and figures.
        x: Position on the axis of a sweep; None for systems without an order.
        variant: The run that scores it; None for the run folder itself.
        model: Name of its scores in that run. If None, the run's own MLLM recommender:
            fine-tuned, or zero-shot if the run does not train.
    """

    name: str
    label: str
    x: float | None = None
    variant: Variant | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class SystemScores:
    """Scores of one system on one run folder.

    Attributes:
        scores: `tables.SCORES`.
        ranks: `tables.RANKS`.
    """

    scores: pl.DataFrame
    ranks: pl.DataFrame


ScoreSystems = Callable[[Pipeline, Sequence[System]], Mapping[str, SystemScores]]


def score_systems(pipeline: Pipeline, systems: Sequence[System]) -> dict[str, SystemScores]:
    """Run everything that the systems need and return their scores by name.

    Args:
        pipeline: The run. Its stages are run up to "score", or up to "infer" if all systems are
            variants.
        systems: The systems.

    Raises:
        StaleStageError: A stage is finished under other settings.
    """
    if any(system.model == ZERO_SHOT for system in systems):
        pipeline = pipeline.under(override(pipeline.settings, ["score.zero_shot=true"]))
    uses_run_itself = any(system.variant is None for system in systems)
    pipeline.run_until("score" if uses_run_itself else "infer")
    main = recommender(pipeline.settings)
    found: dict[str, SystemScores] = {}
    for system in systems:
        model = system.model or main
        if system.variant is None:
            found[system.name] = read_scores(pipeline.run, model)
        else:
            with run_variant(pipeline, system.variant) as variant:
                found[system.name] = read_scores(variant.run, model)
    return found


def read_scores(run: RunFolder, model: str) -> SystemScores:
    """Read a model's scores from a run folder.

    Raises:
        RunFolderError: The model has not scored there.
    """
    return SystemScores(run.read(f"{layout.SCORES}/{model}"), run.read(f"{layout.RANKS}/{model}"))


@dataclass(frozen=True, slots=True)
class Experiment:
    """One table or figure of the paper.

    Attributes:
        name: Name of its module.
        title: Title of its page.
        claim: What the paper says, in our own words.
        systems: Returns the systems for a run's settings; the first one is tested against the
            others.
        axis: Label of the axis of a sweep; None for systems without an order.
        reference: Values of the paper, `{dataset: {label: {metric: value}}}`; empty if it prints
            none.
        metrics: Names of the metrics to show; the first one is used for significance tests.
        caveats: What readers must know before they compare, besides the differences in protocol.
        score: Computes the scores of the systems.
    """

    name: str
    title: str
    claim: str
    systems: Callable[[Settings], Sequence[System]]
    axis: str | None = None
    reference: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    metrics: tuple[str, ...] = field(default_factory=summary_names)
    caveats: tuple[str, ...] = ()
    score: ScoreSystems = score_systems
