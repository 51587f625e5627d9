"""What an experiment is: rows that are measured on one run folder, and what the paper says.

A row is a system whose scores come from the run itself or from a variant of it, an ordinary run
folder in `variants/` that shares whatever comes before the difference. So an experiment that was
killed goes on with the same command, and two experiments share what they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.pipeline.compare import ZERO_SHOT, Variant, recommender, run_variant
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Row:
    """One system of an experiment.

    Attributes:
        name: Its name in the data.
        label: Its name for people.
        x: Where it stands on the axis, in experiments that have one.
        variant: The run that it comes from; the run folder itself where it is None.
        model: Whose scores of that run are meant; those of the MLLM recommender where it is None,
            untuned if the run's settings forbid tuning.
    """

    name: str
    label: str
    x: float | None = None
    variant: Variant | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The scores of one row on one run folder: `tables.SCORES` and `tables.RANKS`."""

    scores: pl.DataFrame
    ranks: pl.DataFrame


Measure = Callable[[Pipeline, Sequence[Row]], Mapping[str, Measured]]


def measure_rows(pipeline: Pipeline, rows: Sequence[Row]) -> dict[str, Measured]:
    """Run what the rows need and collect their scores.

    Args:
        pipeline: The run; its own stages are done as far as its scores.
        rows: What is wanted.

    Raises:
        StaleStageError: A stage is done under other settings.
    """
    if any(row.model == ZERO_SHOT for row in rows):
        pipeline = pipeline.under(override(pipeline.settings, ["score.zero_shot=true"]))
    own = any(row.variant is None for row in rows)
    pipeline.run_until("score" if own else "infer")
    main = recommender(pipeline.settings)
    found: dict[str, Measured] = {}
    for row in rows:
        if row.variant is None:
            found[row.name] = measured(pipeline.run, row.model or main)
        else:
            with run_variant(pipeline, row.variant) as variant:
                found[row.name] = measured(variant.run, row.model or main)
    return found


def measured(run: RunFolder, model: str) -> Measured:
    """What a model's scoring left in a run folder.

    Raises:
        RunFolderError: It has not scored there.
    """
    return Measured(run.read(f"{layout.SCORES}/{model}"), run.read(f"{layout.RANKS}/{model}"))


@dataclass(frozen=True, slots=True)
class Experiment:
    """One table or figure of the paper.

    Attributes:
        name: Its name, that of its file.
        title: What it is about, in a few words.
        claim: What the paper says of it, in a sentence or two of our own.
        rows: Systems to measure under given settings; the first is the one that the others are
            tested against.
        axis: Label of the axis of a sweep; None for systems that have no order.
        reference: The paper's own values: `{data set: {label: {metric: value}}}`; empty where it
            prints none.
        metrics: Metrics that are shown, the first in the figure's first panel.
        caveats: What a reader has to know before comparing, beside the general ones.
        measure: How the rows get their scores.
    """

    name: str
    title: str
    claim: str
    rows: Callable[[Settings], Sequence[Row]]
    axis: str | None = None
    reference: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("auc", "hr@5", "mrr@5", "ndcg@5")
    caveats: tuple[str, ...] = ()
    measure: Measure = measure_rows
