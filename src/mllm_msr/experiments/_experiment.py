"""Experiments: systems that are scored on one run folder, and the results in the paper.

The scores of a system come from the run itself or from a variant of it: a run folder in `variants/`
that shares all stages before the first difference. The same command therefore resumes an
interrupted experiment, and experiments share their common variants.
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
    """System of an experiment: a row of a table or a point of a figure.

    Attributes:
        name: Name in the data.
        label: Name in tables and figures.
        x: Position on the axis of a sweep; None for systems without an order.
        variant: Variant of the run that scores it; None for the run itself.
        model: Name of its scores in that run; None for the MLLM recommender of the run
            (fine-tuned, or zero-shot if the run does not train).
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
        pipeline: The run. Its stages are run up to "score", or up to "infer" if all systems are
            variants.
        systems: The systems.

    Raises:
        StaleStageError: A stage is finished with other settings.
    """
    if any(system.model == ZERO_SHOT for system in systems):
        pipeline = pipeline.with_settings(override(pipeline.settings, ["score.zero_shot=true"]))
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
        claim: Claim of the paper, paraphrased.
        systems: Returns the systems for a run's settings; the first one is tested against the
            others.
        axis: Label of the axis of a sweep; None for systems without an order.
        reference: Values in the paper, `{dataset: {label: {metric: value}}}`; empty if the paper
            prints none.
        metrics: Names of the metrics to show; the first one is used for significance tests.
        caveats: Caveats of a comparison with the paper, besides the differences in protocol.
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
