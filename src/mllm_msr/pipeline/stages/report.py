"""Stage "report": write the results to `report.html` and `report.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.aggregation import model_of, runs_by_model
from mllm_msr.evaluation.report.case_studies import build_case_studies
from mllm_msr.evaluation.report.comparison import ordered_models
from mllm_msr.evaluation.report.report import write_report
from mllm_msr.evaluation.report.run_status import time_limit_notes
from mllm_msr.evaluation.report.tables import POPULARITY
from mllm_msr.pipeline.recommenders import label_of, remark_of
from mllm_msr.storage import layout
from mllm_msr.storage.artifact_cache import digest

# Outputs of earlier stages that the report shows, besides the scores. Some runs lack the last ones.
INPUTS: Final = (
    *(layout.METRICS, layout.DETAILS, layout.INTERACTIONS, layout.ITEMS),
    *(layout.DATA_REPORT, layout.SUMMARIES, layout.PREFERENCES),
)


def main_model(scored: Sequence[str]) -> str:
    """Return the model whose case studies are shown: MLLM-MSR, or else the first with scores."""
    return "mllm_msr" if "mllm_msr" in scored else scored[0]


def digests(settings: Settings, stages: Mapping[str, Any]) -> dict[str, str]:
    """Return hashes of what the report shows besides tables: all settings and the stages' costs.

    Args:
        settings: All settings.
        stages: Entries of the manifest by stage.
    """
    costs = {
        name: [entry["counts"], entry["seconds"], entry["model"]] for name, entry in stages.items()
    }
    return {
        "settings": digest(settings=settings.model_dump(mode="json")),
        "costs": digest(costs=costs),
    }


def report(
    folder: Path,
    settings: Settings,
    *,
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    manifest: Mapping[str, Any],
    scores: Mapping[str, pl.LazyFrame],
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    summaries: pl.DataFrame | None,
    preferences: pl.DataFrame | None,
    data: Mapping[str, Any] | None,
) -> None:
    """Write the report.

    Args:
        folder: Folder of `report.html` and `report.md`.
        settings: All settings, which the report lists; the section `report` is used.
        metrics: Content of `metrics.json`.
        details: Content of `details.json`.
        manifest: The finished stages, for counts and costs.
        scores: `tables.SCORES` by model, one entry per model and seed.
        interactions: `tables.INTERACTIONS`.
        items: `tables.ITEMS` with absolute image paths.
        summaries: `tables.SUMMARIES`, if the run has them.
        preferences: `tables.PREFERENCES`, if the run has them.
        data: What was understood of the dataset, see `RunTables.data_report`.
    """
    shown = main_model(list(scores))
    # Case studies use the first seed of a model with several seeds.
    runs = {model: names[0] for model, names in runs_by_model(list(scores)).items()}
    ordered = [model for model in ordered_models(metrics, "uniform") if model in runs]
    case_studies = build_case_studies(
        interactions,
        items,
        scores=scores[shown].collect(),
        preferences=preferences,
        all_scores={model: scores[runs[model]] for model in ordered},
        model=model_of(shown),
        users=settings.report.case_studies,
        seed=settings.report.seed,
    )
    models, notes = [*metrics, POPULARITY], time_limit_notes(manifest)
    write_report(
        folder,
        metrics=metrics,
        details=details,
        manifest=manifest,
        config=settings.model_dump(mode="json"),
        labels={model: label_of(model) for model in models},
        remarks={
            model: "; ".join(filter(None, [remark_of(model), notes.get(model)])) for model in models
        },
        case_studies=case_studies,
        summaries=summaries,
        preferences=preferences,
        data=data,
    )
