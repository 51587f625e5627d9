"""All models beside each other, as plain records: significance, slices, exposure, calibration.

The comparison part of the report; like `views` it sits between the evaluation's results and the
templates, and leaves out what was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mllm_msr.evaluation.report.tables import ALPHA, Cell, kind_title, label, ordered_kinds
from mllm_msr.evaluation.slices import ORDER

PANELS: Final = ("auc", "ndcg@5")
EXPOSED_AT: Final = 10

_SLICE_TITLES: Final[Mapping[str, str]] = {
    "history": "By length of the history",
    "target": "By popularity of the true item",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One cell of a significance matrix: the row's model against the column's.

    Attributes:
        difference: Mean of the row's model minus the column's.
        p: Holm-corrected p-value.
        n: Users that both ranked.
    """

    difference: float
    p: float
    n: int

    @property
    def verdict(self) -> str:
        """better, worse or "not significant"."""
        if self.p >= ALPHA:
            return "not significant"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every model against every other one; None on the diagonal and without common users."""

    kind: str
    title: str
    metric: str
    models: tuple[str, ...]
    rows: tuple[tuple[Pair | None, ...], ...]


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One model's means in the slices of a panel."""

    label: str
    role: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class SlicePanel:
    """One way of cutting the users, under one kind of negatives, in one metric.

    Attributes:
        title: How the cut is called.
        kind: Kind of negatives.
        metric: The metric.
        columns: Slices as (name, users in it).
        rows: Models, the best over all first.
    """

    title: str
    kind: str
    metric: str
    columns: tuple[tuple[str, int], ...]
    rows: tuple[SliceRow, ...]


@dataclass(frozen=True, slots=True)
class ExposureRow:
    """What one model puts on top; cells in the order coverage, novelty, popularity, bias."""

    label: str
    role: str
    n: int
    cells: tuple[Cell, ...]


def ordered_models(metrics: Mapping[str, Any], kind: str, *, metric: str = "auc") -> list[str]:
    """Models that were judged under a kind of negatives, the highest mean first."""
    means = {
        model: by_kind[kind][metric]["mean"]
        for model, by_kind in metrics.items()
        if metric in by_kind.get(kind, {})
    }
    return sorted(means, key=lambda model: (-means[model], model))


def matrices(
    metrics: Mapping[str, Any],
    comparisons: Sequence[Mapping[str, Any]],
    *,
    shown: Sequence[str] = PANELS,
) -> list[Matrix]:
    """Significance matrices for each kind of negatives and metric with at least two models.

    Args:
        metrics: `Evaluation.summary`.
        comparisons: The records of `comparisons.compare_models`.
        shown: Metrics to show.
    """
    pairs: dict[tuple[str, str], dict[tuple[str, str], Pair]] = {}
    for record in comparisons:
        found = pairs.setdefault((record["negatives"], record["metric"]), {})
        first, second = record["first"], record["second"]
        difference, p, n = record["difference"], record["p_holm"], record["n"]
        found[first, second] = Pair(difference, p, n)
        found[second, first] = Pair(-difference, p, n)
    result = []
    for kind in ordered_kinds(list({kind for kind, _ in pairs})):
        for metric in shown:
            known = pairs.get((kind, metric), {})
            models = ordered_models(metrics, kind, metric=metric)
            if known and len(models) > 1:
                rows = tuple(tuple(known.get((ours, other)) for other in models) for ours in models)
                names = tuple(label(model) for model in models)
                result.append(Matrix(kind, kind_title(kind), metric, names, rows))
    return result


def slice_panels(
    metrics: Mapping[str, Any],
    slices: Mapping[str, Any],
    *,
    main: str,
    shown: Sequence[str] = PANELS,
) -> list[SlicePanel]:
    """Tables of means per slice.

    Args:
        metrics: `Evaluation.summary`; orders the models.
        slices: `details["slices"]`.
        main: The model to set off.
        shown: Metrics to show.
    """
    kinds = ordered_kinds(list({kind for by_kind in metrics.values() for kind in by_kind}))
    panels = []
    for by in (name for name in ORDER if name in slices):
        for kind in kinds:
            for metric in shown:
                panel = _slice_panel(
                    metrics, slices[by], by=by, kind=kind, metric=metric, main=main
                )
                if panel.columns:
                    panels.append(panel)
    return panels


def _slice_panel(
    metrics: Mapping[str, Any], parts: Mapping[str, Any], *,
    by: str, kind: str, metric: str, main: str,
) -> SlicePanel:  # fmt: skip
    models = ordered_models(metrics, kind, metric=metric)
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in (name for name in ORDER[by] if name in parts):
        cells = {m: parts[name].get(m, {}).get(kind, {}).get(metric) for m in models}
        if any(cells.values()):
            found[name] = {model: cell for model, cell in cells.items() if cell}
    best = {name: max(cell["mean"] for cell in cells.values()) for name, cells in found.items()}
    rows = tuple(
        SliceRow(
            label(model),
            _role(model, main),
            tuple(_cell(cells.get(model), best[name]) for name, cells in found.items()),
        )
        for model in models
    )
    columns = tuple(
        (name, max(int(cell["n"]) for cell in cells.values())) for name, cells in found.items()
    )
    return SlicePanel(_SLICE_TITLES[by], kind, metric, columns, rows)


def exposure_rows(
    exposure: Mapping[str, Any], *, main: str, k: int = EXPOSED_AT
) -> list[ExposureRow]:
    """Coverage, novelty, popularity and bias at one cut-off, the widest coverage first.

    Args:
        exposure: `details["exposure"]`.
        main: The model to set off.
        k: The cut-off; models that were not judged at it are left out.
    """
    names = [f"{name}@{k}" for name in ("coverage", "novelty", "popularity", "bias")]
    known = {model: cells for model, cells in exposure.items() if names[0] in cells}
    return [
        ExposureRow(
            label(model),
            _role(model, main),
            int(known[model][names[1]]["n"]),
            tuple(_cell(known[model][name]) for name in names),
        )
        for model in sorted(known, key=lambda model: (-known[model][names[0]]["mean"], model))
    ]


def calibration_rows(
    calibration: Mapping[str, Any], *, main: str
) -> list[tuple[str, str, str, float, int]]:
    """Rows (label, role, kind of negatives, ECE, rows) of the models that give probabilities."""
    return [
        (
            label(model),
            _role(model, main),
            kind,
            by_kind[kind]["ece"],
            sum(part["n"] for part in by_kind[kind]["bins"]),
        )
        for model, by_kind in calibration.items()
        for kind in ordered_kinds(list(by_kind))
        if by_kind[kind]["ece"] is not None
    ]


def _role(model: str, main: str) -> str:
    return "ours" if model == main else "floor" if model == "popularity" else "baseline"


def _cell(found: Mapping[str, Any] | None, best: float | None = None) -> Cell:
    if found is None:
        return Cell(None)
    return Cell(found["mean"], found.get("low"), found.get("high"), best=found["mean"] == best)
