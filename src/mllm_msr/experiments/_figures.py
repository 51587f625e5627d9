"""Figures of experiments: one panel per metric, one color per kind of negatives.

Systems without an order are points with intervals, one row of the panel each. A sweep is a curve
with a band. A dashed line marks the expected value of a random order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mllm_msr.evaluation.metrics import label
from mllm_msr.evaluation.report.tables import kind_title, ordered_kinds
from mllm_msr.experiments._experiment import System

Summary = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
# A system, and the mean and interval of one metric.
Cell = tuple[System, Mapping[str, float]]

_COLORS: Final = {"uniform": "#1f5f8b", "popularity": "#c2571a", "full": "#4d7c3a"}
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
    file_format: str,
    *,
    systems: Sequence[System],
    summary: Summary,
    chance: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str],
    axis: str | None,
) -> None:
    """Draw the results of an experiment to a file.

    Args:
        path: The file.
        file_format: "svg" or "png".
        systems: The systems, in the order of the figure.
        summary: `{system: {negatives: {metric: {mean, low, high}}}}`.
        chance: `{negatives: {metric: expectation of a random order}}`.
        metrics: Names of the metrics, one panel each.
        axis: Label of the axis of a sweep; None for systems without an order.
    """
    shown = {negatives for system in systems for negatives in summary[system.name]} - {"full"}
    kinds = ordered_kinds(sorted(shown or {"full"}))
    with mpl.rc_context(_STYLE):
        n_columns = len(metrics) if axis is None else (len(metrics) + 1) // 2
        n_lines = 1 if axis is None else -(-len(metrics) // n_columns)
        size = (2.1 * n_columns + 2.2, 1.3 + 0.34 * len(systems)) if axis is None else (7.2, 5.0)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(n_lines, n_columns, squeeze=False, sharey=axis is None).flat
        for metric, axes in zip(metrics, grid, strict=False):
            for index, negatives in enumerate(kinds):
                cells = [
                    (system, cell)
                    for system in systems
                    if (cell := summary[system.name].get(negatives, {}).get(metric)) is not None
                ]
                style = {"color": _COLORS.get(negatives, _MUTED), "label": kind_title(negatives)}
                if axis is None:
                    shift = (index - (len(kinds) - 1) / 2) * 0.26
                    heights = {system.name: line + shift for line, system in enumerate(systems)}
                    _draw_points(axes, cells, heights, style)
                else:
                    _draw_sweep(axes, cells, style)
                level = chance.get(negatives, {}).get(metric)
                if level is not None:
                    draw_line = axes.axvline if axis is None else axes.axhline
                    draw_line(level, color=_MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            _label_axes(axes, metric, systems, axis)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(kinds))
        # Without a date, the same results give the same file.
        metadata = {"Date": None} if file_format == "svg" else {}
        figure.savefig(path, format=file_format, dpi=160, metadata=metadata)


def _draw_points(
    axes: Axes, cells: Sequence[Cell], heights: Mapping[str, float], style: Mapping[str, Any]
) -> None:
    for system, cell in cells:
        y = heights[system.name]
        axes.plot([cell["low"], cell["high"]], [y, y], color=style["color"], alpha=0.55)
    means = [cell["mean"] for _, cell in cells]
    y_values = [heights[system.name] for system, _ in cells]
    axes.plot(means, y_values, marker="o", markersize=4.5, linestyle="", **style)


def _draw_sweep(axes: Axes, cells: Sequence[Cell], style: Mapping[str, Any]) -> None:
    x = [system.x or 0.0 for system, _ in cells]
    low, high = ([cell[bound] for _, cell in cells] for bound in ("low", "high"))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, [cell["mean"] for _, cell in cells], marker="o", markersize=4, **style)


def _label_axes(axes: Axes, metric: str, systems: Sequence[System], axis: str | None) -> None:
    if axis is None:
        axes.set_yticks(range(len(systems)), [system.label for system in systems])
        axes.set_ylim(len(systems) - 0.4, -0.6)
        axes.set_xlabel(label(metric))
        axes.grid(visible=True, axis="x")
    else:
        axes.set_xticks([system.x for system in systems if system.x is not None])
        axes.set_xlabel(axis)
        axes.set_ylabel(label(metric))
        axes.grid(visible=True, axis="y")
