"""Comparison part of the report: significance, slices, exposure and calibration of all models.

Like `report.tables`, this module turns results of the evaluation into plain records for the
templates. Parts without data are empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from mllm_msr.evaluation.metrics import FULL_K, HEADLINE, SECONDARY
from mllm_msr.evaluation.report.tables import (
    Cell,
    Outcome,
    Role,
    best_first,
    best_value,
    cell,
    kind_title,
    ordered_kinds,
    outcome,
    role_of,
)
from mllm_msr.evaluation.slices import ORDER

PANELS: Final = (HEADLINE, SECONDARY)

_SLICE_TITLES: Final[Mapping[str, str]] = {
    "history": "By length of the history",
    "target": "By popularity of the true item",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Cell of a significance matrix, which compares the row's model with the column's model.

    Attributes:
        difference: Mean of the row's model minus mean of the column's model.
        p: Holm-corrected p-value.
        n: Number of common users.
        outcome: Whether the row's model is significantly better or worse.
    """

    difference: float
    p: float
    n: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Matrix:
    """Comparisons of all pairs of models; None on the diagonal and without common users."""

    kind: str
    title: str
    metric: str
    models: tuple[str, ...]
    rows: tuple[tuple[Pair | None, ...], ...]


@dataclass(frozen=True, slots=True)
class SliceRow:
    """Means of one model in the slices of a panel."""

    model: str
    role: Role
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class SlicePanel:
    """Results on one partition of the users, for one kind of negatives and one metric.

    Attributes:
        title: Name of the partition.
        kind: Kind of negatives.
        metric: The metric.
        columns: Slices as (name, number of users).
        rows: Models, the best over all users first.
    """

    title: str
    kind: str
    metric: str
    columns: tuple[tuple[str, int], ...]
    rows: tuple[SliceRow, ...]


@dataclass(frozen=True, slots=True)
class ExposureRow:
    """Exposure metrics of one model; cells in the order coverage, novelty, popularity, bias.

    `n` users have a list; the bias is defined for the `n_with_history` of them with a history.
    """

    model: str
    role: Role
    n: int
    n_with_history: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Expected calibration error of one model under one kind of negatives, over `n` scores."""

    model: str
    role: Role
    kind: str
    ece: float
    n: int


def ordered_models(metrics: Mapping[str, Any], kind: str, *, metric: str = HEADLINE) -> list[str]:
    """Return the models that were evaluated under a kind of negatives, the best mean first."""
    means = {
        model: by_kind[kind][metric]["mean"]
        for model, by_kind in metrics.items()
        if metric in by_kind.get(kind, {})
    }
    return sorted(means, key=lambda model: (best_first(means[model], metric), model))


def matrices(metrics: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> list[Matrix]:
    """Build a significance matrix for each kind of negatives and panel with several models.

    Args:
        metrics: `Evaluation.summary`.
        comparisons: The records of `comparisons.compare_models`.
    """
    pairs: dict[tuple[str, str], dict[tuple[str, str], Pair]] = {}
    for record in comparisons:
        metric, difference = record["metric"], record["difference"]
        found = pairs.setdefault((record["negatives"], metric), {})
        first, second, p, n = record["first"], record["second"], record["p_holm"], record["n"]
        found[first, second] = Pair(difference, p, n, outcome(difference, p, metric=metric))
        found[second, first] = Pair(-difference, p, n, outcome(-difference, p, metric=metric))
    result = []
    for kind in ordered_kinds(list({kind for kind, _ in pairs})):
        for metric in PANELS:
            known = pairs.get((kind, metric), {})
            models = tuple(ordered_models(metrics, kind, metric=metric))
            if known and len(models) > 1:
                rows = tuple(tuple(known.get((row, column)) for column in models) for row in models)
                result.append(Matrix(kind, kind_title(kind), metric, models, rows))
    return result


def slice_panels(
    metrics: Mapping[str, Any],
    slices: Mapping[str, Any],
    *,
    main: str,
    chance: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> list[SlicePanel]:
    """Build tables of means per slice. The best mean is marked if it is better than random order.

    Args:
        metrics: `Evaluation.summary`; defines the order of the models.
        slices: `details["slices"]`.
        main: The model to highlight.
        chance: `{negatives: {metric: value}}` of a random order.
    """
    kinds = ordered_kinds(list({kind for by_kind in metrics.values() for kind in by_kind}))
    panels = []
    for by in (name for name in ORDER if name in slices):
        for kind in kinds:
            for metric in PANELS:
                panel = _slice_panel(
                    metrics,
                    slices[by],
                    by=by,
                    kind=kind,
                    metric=metric,
                    main=main,
                    chance=chance.get(kind, {}).get(metric),
                )
                if panel.columns:
                    panels.append(panel)
    return panels


def _slice_panel(
    metrics: Mapping[str, Any],
    parts: Mapping[str, Any],
    *,
    by: str,
    kind: str,
    metric: str,
    main: str,
    chance: float | None,
) -> SlicePanel:
    models = ordered_models(metrics, kind, metric=metric)
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in (name for name in ORDER[by] if name in parts):
        means = {m: parts[name].get(m, {}).get(kind, {}).get(metric) for m in models}
        if any(means.values()):
            found[name] = {model: mean for model, mean in means.items() if mean}
    best = {
        name: best_value([mean["mean"] for mean in means.values()], metric)
        for name, means in found.items()
    }
    if chance is not None:
        best = {n: v for n, v in best.items() if best_first(v, metric) < best_first(chance, metric)}
    rows = tuple(
        SliceRow(
            model,
            role_of(model, main),
            tuple(cell(means.get(model), best.get(name)) for name, means in found.items()),
        )
        for model in models
    )
    columns = tuple(
        (name, max(int(mean["n"]) for mean in means.values())) for name, means in found.items()
    )
    return SlicePanel(_SLICE_TITLES[by], kind, metric, columns, rows)


def exposure_rows(exposure: Mapping[str, Any], *, main: str, k: int = FULL_K) -> list[ExposureRow]:
    """Return the exposure metrics at one cut-off, the highest coverage first.

    Args:
        exposure: `details["exposure"]`.
        main: The model to highlight.
        k: The cut-off; models without values at it are left out.
    """
    names = [f"{name}@{k}" for name in ("coverage", "novelty", "popularity", "bias")]
    known = {model: values for model, values in exposure.items() if names[0] in values}
    return [
        ExposureRow(
            model,
            role_of(model, main),
            int(known[model][names[1]]["n"]),
            int(known[model].get(names[3], {"n": 0})["n"]),
            tuple(cell(known[model].get(name)) for name in names),
        )
        for model in sorted(known, key=lambda model: (-known[model][names[0]]["mean"], model))
    ]


def calibration_rows(calibration: Mapping[str, Any], *, main: str) -> list[CalibrationRow]:
    """Return the calibration error of the models with scores in [0, 1], the best model first.

    Args:
        calibration: `details["calibration"]`.
        main: The model to highlight.
    """
    models = [
        [
            CalibrationRow(
                model,
                role_of(model, main),
                kind,
                by_kind[kind]["ece"],
                sum(part["n"] for part in by_kind[kind]["bins"]),
            )
            for kind in ordered_kinds(list(by_kind))
            if by_kind[kind]["ece"] is not None
        ]
        for model, by_kind in calibration.items()
    ]
    return [
        row for rows in sorted(filter(None, models), key=lambda rows: rows[0].ece) for row in rows
    ]
