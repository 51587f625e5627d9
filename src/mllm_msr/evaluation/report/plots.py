"""Plots of the report as inline SVG that follows the light or dark theme of the page.

Matplotlib draws with placeholder colors, which are then replaced by variables of the style sheet.
Text is embedded as text, so that a plot takes only a few kilobytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#010101"
MUTED: Final = "#020202"
RULE: Final = "#030303"
ACCENT: Final = "#040404"
OTHER: Final = "#050505"
THIRD: Final = "#060606"

_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
    OTHER: "var(--second)",
    THIRD: "var(--third)",
}
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mllm-msr",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0.0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}

Interval = tuple[float, float, float]  # mean, low, high


def intervals(
    rows: Mapping[str, Mapping[str, Interval]],
    *,
    label: str,
    kinds: Sequence[str],
    chance: Sequence[float],
    main: str,
) -> str:
    """Draw means with intervals, one row per model and one mark per kind of negatives.

    Args:
        rows: `{model label: {negatives: (mean, low, high)}}`, top row first.
        label: Label of the axis.
        kinds: Kinds of negatives, in the order of their colors.
        chance: Values of a random order, drawn as dashed lines.
        main: Label of the row to highlight.
    """

    def draw(axes: Axes) -> None:
        spread = 0.0 if len(kinds) == 1 else 0.28
        for index, kind in enumerate(kinds):
            offset = (index - (len(kinds) - 1) / 2) * spread
            color = (ACCENT, OTHER, THIRD)[index % 3]
            for position, row in enumerate(rows.values()):
                if kind not in row:
                    continue
                mean, low, high = row[kind]
                y = position + offset
                axes.plot([low, high], [y, y], color=color, linewidth=1.6, alpha=0.55)
                axes.plot([mean], [y], color=color, marker="o", markersize=4.5, linestyle="")
            axes.plot([], [], color=color, marker="o", markersize=4.5, linestyle="", label=kind)
        for value in chance:
            axes.axvline(value, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(rows)), list(rows))
        for tick, name in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if name == main else "normal")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.grid(visible=True, axis="x")
        if len(kinds) > 1:
            _legend_above(axes)

    return _svg(draw, height=1.05 + 0.36 * len(rows), alt=f"{label} with 95% intervals per model")


def curves(
    lines: Mapping[str, Sequence[float]], *, ks: Sequence[int], main: str, chance: Sequence[float]
) -> str:
    """Draw the hit rate over k for several models.

    Args:
        lines: `{model label: hit rate at each of ks}`.
        ks: Cut-offs.
        main: Label of the line to highlight.
        chance: Value of a random order at each of `ks`.
    """

    def draw(axes: Axes) -> None:
        others = iter((OTHER, THIRD, MUTED))
        for name, values in lines.items():
            color = ACCENT if name == main else next(others, MUTED)
            width = 2.2 if name == main else 1.4
            axes.plot(
                ks, values, color=color, linewidth=width, marker="o", markersize=3, label=name
            )
        axes.plot(ks, chance, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), label="random")
        axes.set_xticks(ks)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("k")
        axes.grid(visible=True, axis="y")
        _legend_above(axes)

    return _svg(draw, height=2.9, alt="Hit rate over k")


def score_histogram(shares: Mapping[str, Sequence[float]]) -> str:
    """Draw histograms of the scores of positives and negatives over [0, 1].

    Args:
        shares: `positives` and `negatives`: share of rows in each bin, bins of equal width.
    """

    def draw(axes: Axes) -> None:
        for name, color in (("negatives", OTHER), ("positives", ACCENT)):
            values = list(shares[name])
            edges = [edge / len(values) for edge in range(len(values) + 1)]
            axes.stairs(values, edges, color=color, fill=True, alpha=0.22)
            axes.stairs(values, edges, color=color, linewidth=1.4, label=name)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel("P(yes)")
        axes.set_yticks([])
        _legend_above(axes)

    return _svg(draw, height=2.7, alt="Scores of true next items and of negatives")


def reliability_diagram(bins: Sequence[Mapping[str, float]]) -> str:
    """Draw the observed share of positives over the predicted probability.

    Points on the diagonal are perfectly calibrated.

    Args:
        bins: Records with `predicted`, `observed` and `weight`.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        x, y = [b["predicted"] for b in bins], [b["observed"] for b in bins]
        axes.plot(x, y, color=ACCENT, linewidth=1.4)
        axes.scatter(x, y, color=ACCENT, s=[12 + 220 * b["weight"] for b in bins], alpha=0.8)
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("predicted P(yes)")
        axes.set_ylabel("share of positives")
        axes.grid(visible=True)

    return _svg(draw, height=2.7, alt="Reliability of probabilities")


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handlelength=1.4, columnspacing=1.4
    )


def _svg(draw: Callable[[Axes], Any], *, height: float, alt: str) -> str:
    """Draw on one pair of axes, five inches wide, and return SVG that can be embedded in a page."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, height), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    opening = re.search(r'viewBox="[^"]*"', text)
    box = opening.group(0) if opening else ""
    text = re.sub(r"^<svg[^>]*>", f'<svg {box} role="img" aria-label="{alt}">', text)
    text = text.replace("xlink:href", "href")
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return text
