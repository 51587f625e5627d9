"""Draws an experiment: one panel per metric, one colour per kind of negatives.

Systems without an order are marks on lines of their own; a sweep is a line with a band. Both show
the intervals, and dashed where random order stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mllm_msr.evaluation.report.tables import kind_title, ordered_kinds
from mllm_msr.experiments._common import Row

Summary = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]

_COLOURS: Final = {"uniform": "#1f5f8b", "popularity": "#c2571a", "full": "#4d7c3a"}
_MUTED: Final = "#6b6b6b"
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mllm-msr",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b5b5b5",
    "xtick.color": "#b5b5b5",
    "ytick.color": "#b5b5b5",
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


def draw(
    path: Path,
    kind: str,
    *,
    rows: Sequence[Row],
    summary: Summary,
    chance: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str],
    axis: str | None,
) -> None:
    """Draw an experiment's results to a file.

    Args:
        path: Where to.
        kind: "svg" or "png".
        rows: The systems, in the order of the figure.
        summary: `{row's name: {negatives: {metric: {mean, low, high}}}}`.
        chance: `{negatives: {metric: what random order earns}}`.
        metrics: One panel each.
        axis: Label of a sweep's axis; None for systems without an order.
    """
    shown = {negatives for row in rows for negatives in summary[row.name]} - {"full"}
    kinds = ordered_kinds(sorted(shown or {"full"}))
    with mpl.rc_context(_STYLE):
        n_columns = len(metrics) if axis is None else (len(metrics) + 1) // 2
        n_lines = 1 if axis is None else -(-len(metrics) // n_columns)
        size = (2.1 * n_columns + 2.2, 1.3 + 0.34 * len(rows)) if axis is None else (7.2, 5.0)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(n_lines, n_columns, squeeze=False, sharey=axis is None).flat
        for metric, axes in zip(metrics, grid, strict=False):
            for at, negatives in enumerate(kinds):
                points = [(row, summary[row.name].get(negatives, {}).get(metric)) for row in rows]
                known = [(row, cell) for row, cell in points if cell is not None]
                style = {"color": _COLOURS.get(negatives, _MUTED), "label": kind_title(negatives)}
                if axis is None:
                    shift = (at - (len(kinds) - 1) / 2) * 0.26
                    places = {row.name: place + shift for place, row in enumerate(rows)}
                    _marks(axes, known, places, style)
                else:
                    _line(axes, known, style)
                _chance(axes, chance.get(negatives, {}).get(metric), across=axis is None)
            _labelled(axes, metric, rows, axis)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(kinds))
        figure.savefig(path, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})


def _marks(
    axes: Axes,
    known: Sequence[tuple[Row, Mapping[str, float]]],
    places: Mapping[str, float],
    style: Mapping[str, Any],
) -> None:
    for row, cell in known:
        y = places[row.name]
        axes.plot([cell["low"], cell["high"]], [y, y], color=style["color"], alpha=0.55)
    means = [cell["mean"] for _, cell in known]
    heights = [places[row.name] for row, _ in known]
    axes.plot(means, heights, marker="o", markersize=4.5, linestyle="", **style)


def _line(
    axes: Axes, known: Sequence[tuple[Row, Mapping[str, float]]], style: Mapping[str, Any]
) -> None:
    x = [row.x or 0.0 for row, _ in known]
    low, high = ([cell[end] for _, cell in known] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, [cell["mean"] for _, cell in known], marker="o", markersize=4, **style)


def _chance(axes: Axes, value: float | None, *, across: bool) -> None:
    if value is not None:
        (axes.axvline if across else axes.axhline)(
            value, color=_MUTED, linewidth=0.8, linestyle=(0, (3, 3))
        )


def _labelled(axes: Axes, metric: str, rows: Sequence[Row], axis: str | None) -> None:
    if axis is None:
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(metric.upper())
        axes.grid(visible=True, axis="x")
    else:
        axes.set_xticks([row.x for row in rows if row.x is not None])
        axes.set_xlabel(axis)
        axes.set_ylabel(metric.upper())
        axes.grid(visible=True, axis="y")
