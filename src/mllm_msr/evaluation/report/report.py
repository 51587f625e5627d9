"""The report of a run: `report.html`, a single self-contained file, and `report.md`.

Last step of the evaluation. The report describes the run, its results with their uncertainty, cost,
warnings and caveats, and shows some users in detail. Text from data and models is always escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from mllm_msr.data.source_text import report_rows
from mllm_msr.evaluation import metrics as metric_registry
from mllm_msr.evaluation.comparisons import MAIN
from mllm_msr.evaluation.metrics import FULL_K, HEADLINE
from mllm_msr.evaluation.report import comparison, paper_results, run_status, tables
from mllm_msr.evaluation.report.case_studies import CaseStudy
from mllm_msr.evaluation.report.caveats import caveats
from mllm_msr.evaluation.report.figures import build_figures
from mllm_msr.evaluation.report.next_steps import next_steps
from mllm_msr.evaluation.report.provenance import Provenance
from mllm_msr.evaluation.report.rendering import environment, source, style_sheet
from mllm_msr.evaluation.report.summary import build_tiles
from mllm_msr.storage.atomic import write_text
from mllm_msr.storage.layout import REPORT_HTML, REPORT_MARKDOWN


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Paths of a report."""

    html: Path
    markdown: Path


def write_report(
    folder: Path,
    *,
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    remarks: Mapping[str, str] | None = None,
    case_studies: Sequence[CaseStudy] = (),
    summaries: pl.DataFrame | None = None,
    preferences: pl.DataFrame | None = None,
    data: Mapping[str, Any] | None = None,
    show_paper_results: bool = True,
    ranked_by: Mapping[str, str] | None = None,
    provenance: Provenance | None = None,
) -> ReportFiles:
    """Write `report.html` and `report.md`.

    Args:
        folder: Existing folder to write to.
        metrics: `Evaluation.summary`, the content of `metrics.json`.
        details: `Evaluation.details`; missing parts are left out of the report.
        manifest: Finished stages by name, with `seconds`, `counts` and `model`.
        config: The run's settings, nested as in `config.yaml`.
        labels: Labels by model name ("sasrec": "SASRec"), also of the popularity baseline, which
            always has a row. Other models, such as external scores, are shown by their name.
        remarks: Short notes by model name, shown below the label.
        case_studies: Users to show in detail.
        summaries: `tables.SUMMARIES`, for the warnings about images and texts.
        preferences: `tables.PREFERENCES`, for the warnings about texts.
        data: What was understood of the dataset, `DataReport.to_dict`.
        show_paper_results: Whether to print the results of the paper.
        ranked_by: Setting by model name that enables the ranking of the full catalog.
        provenance: Version, time, machine, command and changed settings.

    Returns:
        The two paths.
    """
    labels = labels or {}
    context = {
        **_run_context(manifest, config),
        **_origin_context(manifest, provenance or Provenance()),
        **_result_context(metrics, details, labels, remarks or {}, ranked_by or {}),
        **_data_context(data),
        "case_studies": case_studies,
        "costs": run_status.costs(manifest),
        "warnings": run_status.warning_counts(summaries, preferences),
        "paper_results": paper_results.TABLE_3 if show_paper_results else {},
        "paper_metrics": paper_results.METRICS,
        "paper_caveats": paper_results.CAVEATS,
    }
    results = context["tables"]
    context["caveats"] = caveats(
        config, tables=results, details=details, manifest=manifest, labels=labels
    )
    context["next_steps"] = next_steps(
        results, context["verdicts"], config=config, manifest=manifest, labels=labels
    )
    return _render(folder, context, labels)


def _render(folder: Path, context: Mapping[str, Any], labels: Mapping[str, str]) -> ReportFiles:
    """Render both templates and write the files."""
    written = ReportFiles(folder / REPORT_HTML, folder / REPORT_MARKDOWN)
    templates = environment(labels)
    page = templates.get_template("report.html.jinja").render(context)
    write_text(written.html, page)
    text = templates.get_template("report.md.jinja").render(context)
    write_text(written.markdown, text.strip() + "\n")
    return written


def _origin_context(manifest: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """Return the template variables that state where the report comes from."""
    model = next((entry["model"] for entry in manifest.values() if entry.get("model")), "")
    packages = ", ".join(f"{name} {number}" for name, number in provenance.packages.items())
    hardware = run_status.hardware(manifest)
    facts = {
        "mllm-msr": provenance.version,
        "Written": provenance.created,
        "System": provenance.machine,
        "Hardware": "; ".join(hardware),
        "Packages": packages,
        "Model": model,
    }
    return {
        "provenance": provenance,
        "facts": [(name, value) for name, value in facts.items() if value],
        "hardware": hardware,
    }


def _data_context(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the template variables about the dataset's files."""
    if data is None:
        return {"data_rows": [], "data_warnings": []}
    return {"data_rows": report_rows(data), "data_warnings": data["warnings"]}


def _run_context(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template variables that describe the run, and the page's style and script."""
    script = source("report.js") or ""
    return {
        "dataset": _dataset_title(config),
        "preset": config.get("preset", ""),
        "protocol": config.get("data", {}).get("protocol", ""),
        # Later stages count users as well, such as those that `distill` has selected.
        "counts": manifest.get("prepare", {}).get("counts", {}),
        "model_name": _model_name(config.get("model", {})),
        "settings": yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True),
        "css": style_sheet(),
        "script": script,
        "reads_preference": config.get("recommend", {}).get("reads") != "history",
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _result_context(
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    labels: Mapping[str, str],
    remarks: Mapping[str, str],
    ranked_by: Mapping[str, str],
) -> dict[str, Any]:
    """Return the template variables that contain results."""
    main = tables.main_model(metrics)
    n_eligible = len(tables.eligible_models(metrics))
    chance, comparisons = details.get("chance", {}), details.get("comparisons", ())
    n_seeds = {
        model: max(len(means) for by_metric in kinds.values() for means in by_metric.values())
        for model, kinds in details.get("seeds", {}).items()
    }
    results = tables.result_tables(
        metrics, chance=chance, main=main, remarks=remarks, n_seeds=n_seeds, ranked_by=ranked_by
    )
    verdicts = tables.verdicts(comparisons, main=main)
    folds = details.get("folds", {}).get(main, {})
    return {
        "main": main,
        "best_of": n_eligible if main != MAIN and n_eligible > 1 else None,
        # The comparisons of a main model that was chosen by its results are no family of their own.
        "is_planned": main == MAIN,
        "headline": HEADLINE,
        "tables": results,
        "tiles": build_tiles(results, verdicts, labels=labels),
        "all_cut_offs": tables.all_cut_offs(
            metrics, chance=chance, main=main, pooled=details.get("pooled_auc", {})
        ),
        "descriptions": metric_registry.descriptions(),
        "verdicts": verdicts,
        "matrices": comparison.matrices(metrics, comparisons),
        "slices": comparison.slice_panels(
            metrics, details.get("slices", {}), main=main, chance=chance
        ),
        "exposure": comparison.exposure_rows(details.get("exposure", {}), main=main),
        "exposure_k": FULL_K,
        "calibration": comparison.calibration_rows(details.get("calibration", {}), main=main),
        "folds": [
            (tables.kind_title(kind), folds[kind][HEADLINE])
            for kind in tables.ordered_kinds(list(folds))
            if len(folds[kind].get(HEADLINE, {})) > 1
        ],
        "figures": build_figures(metrics, details, main=main, labels=labels),
    }


def _dataset_title(config: Mapping[str, Any]) -> str:
    """Return the name of the dataset, for own files the name of their folder."""
    name = str(config.get("dataset", "unknown data"))
    folder = config.get("data", {}).get("path") if name == "files" else None
    return Path(str(folder)).name or name if folder else name


def _model_name(model: Mapping[str, Any]) -> str:
    """Return the model of the run without its version: its checkpoint, or its backend."""
    return Path(str(model.get("checkpoint") or model.get("backend") or "")).name


def _plain(value: object) -> object:
    """Convert settings to the basic types of YAML."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
