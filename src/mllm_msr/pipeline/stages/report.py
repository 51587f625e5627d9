"""Stage "report": what was found, as one page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from mllm_msr.evaluation.aggregation import model_of, runs_by_model
from mllm_msr.evaluation.report.case_studies import build_case_studies
from mllm_msr.evaluation.report.comparison import ordered_models
from mllm_msr.evaluation.report.report import write_report
from mllm_msr.pipeline.context import Workspace


def run(work: Workspace) -> None:
    """Write report.html and report.md."""
    inputs = ["metrics.json", "details.json", "interactions", "items"]
    settings = work.settings.report
    with work.stage("report", settings.model_dump(mode="json"), inputs=inputs) as stage:
        if stage.finished:
            return
        run = work.run
        shown = next(
            name for name in ("mllm_msr", *work.scored_models()) if run.has(f"scores/{name}")
        )
        metrics = json.loads(run.verified("metrics.json").read_text(encoding="utf-8"))
        preferences = run.read("preferences") if run.has("preferences") else None
        case_studies = build_case_studies(
            run.read("interactions"),
            work.items(),
            scores=run.read(f"scores/{shown}"),
            preferences=preferences,
            every=_scores_of_models(work, metrics),
            model=model_of(shown),
            users=settings.case_studies,
            seed=settings.seed,
        )
        write_report(
            run.folder,
            metrics=metrics,
            details=json.loads(run.verified("details.json").read_text(encoding="utf-8")),
            manifest=run.stages,
            config=work.settings.model_dump(mode="json"),
            case_studies=case_studies,
            summaries=run.read("summaries") if run.has("summaries") else None,
            preferences=preferences,
        )
        stage.register("report.html")
        stage.register("report.md")


def _scores_of_models(work: Workspace, metrics: Mapping[str, Any]) -> dict[str, pl.LazyFrame]:
    """Each model's scores, those of its first seed where it has several, the best model first."""
    runs = {model: names[0] for model, names in runs_by_model(work.scored_models()).items()}
    ordered = ordered_models(metrics, "uniform")
    return {model: work.run.scan(f"scores/{runs[model]}") for model in ordered if model in runs}
