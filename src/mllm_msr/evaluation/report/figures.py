"""Figures of the report: selection of plots, models and metrics."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mllm_msr.errors import install_command
from mllm_msr.evaluation import metrics as metric_registry
from mllm_msr.evaluation.metrics import HEADLINE
from mllm_msr.evaluation.report import plots
from mllm_msr.evaluation.report.comparison import ordered_models
from mllm_msr.evaluation.report.tables import (
    POPULARITY,
    best_first,
    kind_title,
    ordered_kinds,
)

logger = logging.getLogger(__name__)

# Metric that is plotted over the cut-offs.
_CURVE: Final = "hr"
_N_CURVES: Final = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot of the report.

    Attributes:
        title: Heading.
        svg: The plot.
        note: Caption.
    """

    title: str
    svg: str
    note: str


def build_figures(
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    *,
    main: str,
    labels: Mapping[str, str],
) -> list[Figure]:
    """Draw all figures for which the run has data; none, with a warning, without Matplotlib.

    Args:
        metrics: `Evaluation.summary`.
        details: `Evaluation.details`.
        main: The main model.
        labels: Labels by model name; models without one are shown by their name.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning(
            "The report has no figures, because Matplotlib is not installed; it is part of "
            "mllm-msr[report]. Run: %s, and the stage `report` again with --force.",
            install_command("report"),
        )
        return []
    names = {model: labels.get(model, model) for model in (*metrics, POPULARITY, main)}
    chance = details.get("chance", {})
    all_kinds = ordered_kinds(list({kind for by_kind in metrics.values() for kind in by_kind}))
    sampled = [kind for kind in all_kinds if kind != "full"]
    figures = _intervals(metrics, chance, kinds=sampled, main=main, names=names)
    kind = next((kind for kind in sampled if kind in metrics.get(main, {})), None)
    if kind is None:
        return figures
    curve = _curve(metrics, chance.get(kind, {}), kind=kind, main=main, names=names)
    figures += [curve] if curve else []
    shares = details.get("histograms", {}).get(main, {}).get(kind)
    if shares:
        note = f"{names[main]}, {kind_title(kind).lower()}. Each histogram sums to one."
        figures.append(Figure("Scores", plots.score_histogram(shares), note))
    figures += _reliability(details, main=main, kind=kind, name=names[main])
    return figures


def _reliability(details: Mapping[str, Any], *, main: str, kind: str, name: str) -> list[Figure]:
    """Draw the reliability of P(yes) as scored and, if it was fitted, after calibration."""
    found = {
        label: reliability
        for label, part in (("as scored", "calibration"), ("calibrated", "calibrated"))
        if (reliability := details.get(part, {}).get(main, {}).get(kind)) and reliability["bins"]
    }
    if not found:
        return []
    errors = ", ".join(f"{value['ece']:.3f} {label}" for label, value in found.items())
    note = (
        f"{name}, {kind_title(kind).lower()}. Share of positives over P(yes), both classes "
        "weighted equally as in training; the diagonal is perfect calibration. Expected "
        f"calibration error: {errors}."
    )
    if "calibrated" in found:
        note += " Calibration was fitted on validation users; lists show calibrated values."
    svg = plots.reliability_diagram({label: value["bins"] for label, value in found.items()})
    return [Figure("Reliability", svg, note)]


def _intervals(
    metrics: Mapping[str, Any],
    chance: Mapping[str, Mapping[str, float]],
    *,
    kinds: Sequence[str],
    main: str,
    names: Mapping[str, str],
) -> list[Figure]:
    """Draw the headline metric of all models, the best on top, unless the tables already do.

    The tables draw the intervals of one kind of negatives; this figure compares several kinds.
    """
    models = dict.fromkeys(model for kind in kinds for model in ordered_models(metrics, kind))
    if len(kinds) < 2 or len(models) < 2:
        return []
    rows = {
        names[model]: {
            kind: (entry[HEADLINE]["mean"], entry[HEADLINE]["low"], entry[HEADLINE]["high"])
            for kind, entry in metrics[model].items()
            if kind in kinds and HEADLINE in entry
        }
        for model in models
    }
    title = metric_registry.label(HEADLINE)
    svg = plots.intervals(
        rows,
        label=title,
        kinds=[kind for kind in kinds if any(kind in row for row in rows.values())],
        chance=sorted(
            {chance[kind][HEADLINE] for kind in kinds if HEADLINE in chance.get(kind, {})}
        ),
        main=names[main],
    )
    note = "Mean over users and 95% interval for each kind of negatives. Dashed: random order."
    return [Figure(f"{title} by kind of negatives", svg, note)]


def _curve(
    metrics: Mapping[str, Any],
    chance: Mapping[str, float],
    *,
    kind: str,
    main: str,
    names: Mapping[str, str],
) -> Figure | None:
    """Draw the hit rate over the cut-offs for the main model, the best others and popularity."""
    by_k = {
        int(cut_off): name
        for name in chance
        for metric, mark, cut_off in [name.partition("@")]
        if metric == _CURVE and mark
    }
    ks = sorted(by_k)
    lines = {
        model: [by_kind[kind][by_k[k]]["mean"] for k in ks]
        for model, by_kind in metrics.items()
        if kind in by_kind and all(by_k[k] in by_kind[kind] for k in ks)
    }
    if len(ks) < 2 or not lines:
        return None
    others = [model for model in lines if model not in {main, POPULARITY}]
    others.sort(key=lambda model: best_first(lines[model][0], by_k[ks[0]]))
    label = metric_registry.label(f"{_CURVE}@k")
    svg = plots.curves(
        {
            names[model]: lines[model]
            for model in (main, *others[:_N_CURVES], POPULARITY)
            if model in lines
        },
        ks=ks,
        main=names[main],
        chance=[chance[by_k[k]] for k in ks],
        label="share of users",
    )
    note = (
        f"Share of users whose true next item is among the first k candidates ({label}), "
        f"{kind_title(kind).lower()}."
    )
    return Figure(f"{label} by cut-off", svg, note)
