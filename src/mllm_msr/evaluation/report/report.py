"""The report of a run: `report.html`, one file that needs nothing else, and `report.md`.

Last step of the evaluation. It says what the run was, what was measured with which certainty,
what it cost, what went wrong, and shows some users in full. Everything that comes from data or
from a model is escaped text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jinja2
import polars as pl
import yaml

from mllm_msr.data.images import thumbnail_data_url
from mllm_msr.errors import ImageError
from mllm_msr.evaluation.report import comparison, paper_results, plots
from mllm_msr.evaluation.report import tables as views
from mllm_msr.evaluation.report.case_studies import CaseStudy
from mllm_msr.storage import layout

_SAMPLED: Final = ("auc", "hr@5", "mrr@5", "ndcg@5")
_FULL: Final = ("hr@10", "ndcg@10")


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report was written."""

    html: Path
    markdown: Path


def write_report(
    folder: Path,
    *,
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    case_studies: Sequence[CaseStudy] = (),
    summaries: pl.DataFrame | None = None,
    preferences: pl.DataFrame | None = None,
    show_reference: bool = True,
) -> ReportFiles:
    """Write `report.html` and `report.md`.

    Args:
        folder: Existing folder to write to.
        metrics: `Evaluation.summary`, the content of `metrics.json`.
        details: `Evaluation.details`; whatever is missing in it is left out of the report.
        manifest: Finished stages by name, each with `seconds` and `counts`, and `model` where
            one was asked.
        config: The run's settings, nested as in `config.yaml`.
        case_studies: Users to show in full.
        summaries: `tables.SUMMARIES`, for the state of images and texts.
        preferences: `tables.PREFERENCES`, for the same.
        show_reference: Whether to print the paper's own table.

    Returns:
        The two paths.
    """
    context = _context(
        metrics, details=details, manifest=manifest, config=config, case_studies=case_studies,
        health=views.health(summaries, preferences), show_reference=show_reference,
    )  # fmt: skip
    written = ReportFiles(folder / layout.REPORT_HTML, folder / layout.REPORT_MARKDOWN)
    page = _environment().get_template("report.html.jinja").render(context)
    written.html.write_text(page, encoding="utf-8")
    text = _environment().get_template("report.md.jinja").render(context)
    written.markdown.write_text(text.strip() + "\n", encoding="utf-8")
    return written


def _context(
    metrics: Mapping[str, Any], *, details: Mapping[str, Any], manifest: Mapping[str, Any],
    config: Mapping[str, Any], case_studies: Sequence[CaseStudy],
    health: Sequence[tuple[str, str, int, float]], show_reference: bool,
) -> dict[str, Any]:  # fmt: skip
    main = views.main_model(metrics)
    n_contenders = len(views.contenders(metrics))
    chance = details.get("chance", {})
    n_seeds = {
        model: max(len(means) for by_metric in kinds.values() for means in by_metric.values())
        for model, kinds in details.get("seeds", {}).items()
    }
    results = views.result_tables(metrics, chance=chance, main=main, n_seeds=n_seeds)
    every = views.every_cut_off(
        metrics, chance=chance, main=main, pooled=details.get("pooled_auc", {})
    )
    script = _source("report.js") or ""
    counts: dict[str, float] = {}
    for entry in manifest.values():
        counts |= entry.get("counts", {})
    return {
        "main": views.label(main),
        "best_of": n_contenders if main != "mllm_msr" and n_contenders > 1 else None,
        "dataset": config.get("dataset", "unknown data"),
        "preset": config.get("preset", ""),
        "protocol": config.get("data", {}).get("protocol", ""),
        "counts": counts,
        "model": next((e["model"] for e in manifest.values() if e.get("model")), None),
        "tables": results,
        "every": every,
        "headline": _headline(results),
        "verdicts": views.verdicts(details.get("comparisons", ()), main=main),
        "matrices": comparison.matrices(metrics, details.get("comparisons", ())),
        "slices": comparison.slice_panels(metrics, details.get("slices", {}), main=main),
        "exposure": comparison.exposure_rows(details.get("exposure", {}), main=main),
        "exposed_at": comparison.EXPOSED_AT,
        "calibration": comparison.calibration_rows(details.get("calibration", {}), main=main),
        "folds": _folds(details.get("folds", {}).get(main, {})),
        "plots": _plots(metrics, details, main),
        "case_studies": case_studies,
        "costs": views.costs(manifest),
        "health": health,
        "caveats": views.caveats(
            config,
            tables=results,
            undefined=details.get("undefined", {}),
            carried=manifest.get("summarize", {}).get("counts", {}).get("source_coverage"),
        ),
        "reference": paper_results.TABLE_3 if show_reference else {},
        "reference_caveats": paper_results.CAVEATS,
        "settings": yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True),
        "css": _source("report.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _headline(tables: Sequence[views.ResultTable]) -> list[tuple[str, views.Row, dict[str, Any]]]:
    """For each table its title, the main model's row and the yardsticks' first values."""
    found = []
    for table in tables:
        ours = next((row for row in table.rows if row.role == "ours"), None)
        if ours is None or not ours.cells:
            continue
        yardsticks = {
            row.label: row.cells[0].mean
            for row in table.rows
            if row.role in {"floor", "chance"} or row.model == "zero_shot"
        }
        found.append((table.title, ours, {k: v for k, v in yardsticks.items() if v is not None}))
    return found


def _folds(by_kind: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """The main model's AUC per fold, where there are several folds."""
    return [
        (views.kind_title(kind), by_kind[kind]["auc"])
        for kind in views.ordered_kinds(list(by_kind))
        if len(by_kind[kind].get("auc", {})) > 1
    ]


def _plots(
    metrics: Mapping[str, Any], details: Mapping[str, Any], main: str
) -> list[tuple[str, str, str]]:
    """Figures as (title, SVG, note); those without data are absent."""
    ours, chance = views.label(main), details.get("chance", {})
    sampled = [kind for kind in _kinds(metrics) if kind != "full"]
    panels = [*((name, sampled) for name in _SAMPLED), *((name, ["full"]) for name in _FULL)]
    drawn = [
        _interval_plot(metrics, chance, metric=metric, kinds=kinds, ours=ours)
        for metric, kinds in panels
    ]
    found = [plot for plot in drawn if plot is not None]
    kind = next((k for k in ("uniform", "popularity") if k in metrics.get(main, {})), None)
    if kind is None:
        return found
    found += _curves(metrics, chance.get(kind, {}), kind=kind, ours=ours)
    shares = details.get("histograms", {}).get(main, {}).get(kind)
    if shares:
        note = f"{ours}, {views.kind_title(kind).lower()}. Each colour adds up to one."
        found.append(("Scores", plots.score_histogram(shares), note))
    curve = details.get("calibration", {}).get(main, {}).get(kind)
    if curve and curve["bins"]:
        note = (
            f"{ours}. Share that is true over P(yes), both classes weighted equally as in "
            f"training; the diagonal is perfect. Expected calibration error {curve['ece']:.3f}."
        )
        found.append(("Reliability", plots.reliability_diagram(curve["bins"]), note))
    return found


def _interval_plot(
    metrics: Mapping[str, Any], chance: Mapping[str, Mapping[str, float]], *,
    metric: str, kinds: Sequence[str], ours: str,
) -> tuple[str, str, str] | None:  # fmt: skip
    """One metric of all models under some kinds of negatives, the best model on top."""
    models = list(
        dict.fromkeys(
            model
            for kind in kinds
            for model in comparison.ordered_models(metrics, kind, metric=metric)
        )
    )
    if not models:
        return None
    rows = {
        views.label(model): {
            kind: (entry[metric]["mean"], entry[metric]["low"], entry[metric]["high"])
            for kind, entry in metrics[model].items()
            if kind in kinds and metric in entry
        }
        for model in models
    }
    at = {chance[kind][metric] for kind in kinds if metric in chance.get(kind, {})}
    title = metric.upper()
    svg = plots.intervals(rows, label=title, chance=sorted(at), ours=ours)
    title += ", full catalogue" if list(kinds) == ["full"] else ""
    return title, svg, "Mean over users and 95% interval; dashed: random order."


def _curves(
    metrics: Mapping[str, Any], chance: Mapping[str, float], *, kind: str, ours: str
) -> list[tuple[str, str, str]]:
    ks = sorted(int(name.removeprefix("hr@")) for name in chance if name.startswith("hr@"))
    names = [f"hr@{k}" for k in ks]
    lines = {
        views.label(model): [by_kind[kind][name]["mean"] for name in names]
        for model, by_kind in metrics.items()
        if kind in by_kind and all(name in by_kind[kind] for name in names)
    }
    if len(ks) < 2 or not lines:
        return []
    rest = sorted((name for name in lines if name != ours), key=lambda name: -lines[name][0])
    floor = views.label("popularity")
    keep = [ours, *[name for name in rest if name != floor][:2], floor]
    svg = plots.curves(
        {name: lines[name] for name in keep if name in lines},
        ks=ks, ours=ours, chance=[chance[name] for name in names],
    )  # fmt: skip
    return [("Hits by cut-off", svg, f"HR@k, {views.kind_title(kind).lower()}.")]


def _kinds(metrics: Mapping[str, Any]) -> list[str]:
    return views.ordered_kinds(list({kind for by_kind in metrics.values() for kind in by_kind}))


def _plain(value: object) -> object:
    """Settings as YAML's basic types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(("html.jinja",)),
    )
    environment.filters |= {
        "duration": duration,
        "percent": lambda value: f"{value:.0%}",
        "thousands": lambda value: f"{value:,.0f}",
        "count": lambda value: f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}",
        "decimals": lambda value: "–" if value is None else f"{value:.3f}",
        "signed": lambda value: f"{value:+.3f}".replace("-", "\u2212"),
        "p_value": lambda value: "< 0.001" if value < 0.001 else f"= {value:.3f}",
        "thumbnail": _thumbnail,
        "label": views.label,
        "kind_title": views.kind_title,
        "cell": _markdown_cell,
    }
    return environment


def duration(seconds: float) -> str:
    """Seconds in the largest two units.

    >>> duration(0.25), duration(75), duration(7260)
    ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _thumbnail(path: Path | None, size: int) -> str:
    """A `data:` URL, empty where there is no readable image."""
    if path is None:
        return ""
    try:
        return thumbnail_data_url(path, size)
    except ImageError:
        return ""


def _markdown_cell(value: object) -> str:
    """Text that cannot leave its cell of a Markdown table, nor act as markup."""
    text = " ".join(str(value).split())
    for character in "\\`*_[]<>|#!":
        text = text.replace(character, f"\\{character}")
    return text


def _source(name: str) -> str | None:
    resource = files("mllm_msr.evaluation.report") / "templates" / name
    return resource.read_text(encoding="utf-8") if resource.is_file() else None
