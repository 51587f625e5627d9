"""Stage "report": write the results to `report.html` and `report.md`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr import __version__, registry
from mllm_msr.config.changes import as_arguments, changed_settings
from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.aggregation import model_of, runs_by_model
from mllm_msr.evaluation.report.case_studies import build_case_studies
from mllm_msr.evaluation.report.comparison import ordered_models
from mllm_msr.evaluation.report.provenance import (
    Provenance,
    describe_machine,
    describe_packages,
    describe_time,
)
from mllm_msr.evaluation.report.run_status import time_limit_notes
from mllm_msr.evaluation.report.tables import POPULARITY
from mllm_msr.pipeline.recommenders import label_of, remark_of
from mllm_msr.ranker.recommender import MLLM_MSR, VARIANTS
from mllm_msr.storage import layout
from mllm_msr.storage.artifact_cache import digest

# Outputs of earlier stages that the report shows, besides the scores. Some runs lack the last ones.
INPUTS: Final = (
    *(layout.METRICS, layout.DETAILS, layout.INTERACTIONS, layout.ITEMS),
    *(layout.DATA_REPORT, layout.SUMMARIES, layout.PREFERENCES),
)


def case_study_model(scored: Sequence[str]) -> str:
    """Return the model whose case studies are shown: MLLM-MSR, or else the first with scores."""
    return MLLM_MSR if MLLM_MSR in scored else scored[0]


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
    requires_llm: Callable[[str], bool],
) -> None:
    """Write the report.

    Args:
        folder: Folder of `report.html` and `report.md`.
        settings: All settings, which the report lists.
        metrics: Content of `metrics.json`.
        details: Content of `details.json`.
        manifest: The finished stages, for counts and costs.
        scores: `tables.SCORES` by model, one entry per model and seed.
        interactions: `tables.INTERACTIONS`.
        items: `tables.ITEMS` with absolute image paths.
        summaries: `tables.SUMMARIES`, if the run has them.
        preferences: `tables.PREFERENCES`, if the run has them.
        data: See `RunTables.data_report`.
        requires_llm: See `Recommenders.requires_llm`.
    """
    from mllm_msr.evaluation.report.report import write_report  # slow; not needed if finished

    shown = case_study_model(list(scores))
    case_studies = build_case_studies(
        interactions,
        items,
        scores=scores[shown].collect(),
        preferences=preferences,
        all_scores=_first_seeds(scores, metrics),
        model=model_of(shown),
        users=settings.report.case_studies,
        seed=settings.report.seed,
    )
    models, limits = [*metrics, POPULARITY], time_limit_notes(manifest)
    write_report(
        folder,
        metrics=metrics,
        details=details,
        manifest=manifest,
        config=settings.model_dump(mode="json"),
        labels={model: label_of(model) for model in models},
        remarks={model: "; ".join(_remarks(model, limits)) for model in models},
        case_studies=case_studies,
        summaries=summaries,
        preferences=preferences,
        data=data,
        ranked_by={model: _ranking_setting(model, requires_llm) for model in metrics},
        provenance=_provenance(folder, settings),
    )


def _first_seeds(
    scores: Mapping[str, pl.LazyFrame], metrics: Mapping[str, Any]
) -> dict[str, pl.LazyFrame]:
    """Return the scores of each model, of the first of several seeds, the best model first."""
    runs = {model: names[0] for model, names in runs_by_model(list(scores)).items()}
    ordered = [model for model in ordered_models(metrics, "uniform") if model in runs]
    return {model: scores[runs[model]] for model in ordered}


def _remarks(model: str, limits: Mapping[str, str]) -> list[str]:
    """Return the notes about a model: its own, and that a time limit ended its training."""
    return [note for note in (remark_of(model), limits.get(model)) if note]


def _ranking_setting(model: str, requires_llm: Callable[[str], bool]) -> str:
    """Return the setting that enables the ranking of the full catalog by a model."""
    if model not in VARIANTS and model not in registry.names("baselines"):
        return ""
    return "score.full_users_mllm" if requires_llm(model) else "score.full_users"


def _provenance(folder: Path, settings: Settings) -> Provenance:
    """Return the origin of a report that is written now."""
    changes = changed_settings(settings)
    cwd = Path.cwd()
    # As one types it, so that the commands of the report can be copied.
    run = folder.relative_to(cwd).as_posix() if cwd in folder.parents else folder.name
    arguments = [f"--preset {settings.preset}", *as_arguments(changes)]
    return Provenance(
        version=__version__,
        created=describe_time(),
        machine=describe_machine(),
        packages=describe_packages(),
        command=" ".join(["mllm-msr run --run", shlex.quote(run), *arguments]),
        run=shlex.quote(run),
        changes=changes,
    )
