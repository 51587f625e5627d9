"""Plots of the report as inline SVG that follows the light or dark theme of the page.

Matplotlib draws with placeholder colors, which are then replaced by variables of the style sheet.
Text is embedded as text, so that a plot takes only a few kilobytes. Series differ in color and in
the shape of their marks. Each mark has a `<title>`, which browsers show on hover.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.0,
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

_COLORS: Final = (ACCENT, OTHER, THIRD, MUTED)
_MARKS: Final = ("o", "D", "s", "^")
_DASHES: Final = ("-", "--", "-.", ":")
_MAX_LABEL: Final = 18  # characters on an axis
_HOVER: Final = "hover:"  # begins the id of an element that gets a title

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
        kinds: Kinds of negatives, in the order of their colors and marks.
        chance: Values of a random order, drawn as dashed lines.
        main: Label of the row to highlight.
    """

    def draw(axes: Axes) -> None:
        spread = 0.0 if len(kinds) == 1 else 0.28
        for index, kind in enumerate(kinds):
            offset = (index - (len(kinds) - 1) / 2) * spread
            color, mark = _COLORS[index % 4], _MARKS[index % 4]
            for position, (model, row) in enumerate(rows.items()):
                if kind not in row:
                    continue
                mean, low, high = row[kind]
                y = position + offset
                axes.plot([low, high], [y, y], color=color, linewidth=1.6, alpha=0.55)
                words = f"{model}, {kind}: {label} {mean:.3f} ({low:.3f} to {high:.3f})"
                _mark(axes, mean, y, color=color, mark=mark, words=words)
            axes.plot([], [], color=color, marker=mark, markersize=5, linestyle="", label=kind)
        for value in chance:
            axes.axvline(value, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(rows)), [_shortened(name) for name in rows])
        for tick, name in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if name == main else "normal")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.grid(visible=True, axis="x")
        if len(kinds) > 1:
            _legend_above(axes)

    return _svg(draw, height=1.05 + 0.36 * len(rows), alt=f"{label} with 95% intervals per model")


def curves(
    lines: Mapping[str, Sequence[float]],
    *,
    ks: Sequence[int],
    main: str,
    chance: Sequence[float],
    label: str,
) -> str:
    """Draw a metric over k for several models.

    Args:
        lines: `{model label: value at each of ks}`.
        ks: Cut-offs.
        main: Label of the line to highlight.
        chance: Value of a random order at each of `ks`.
        label: Label of the axis of values.
    """

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(lines.items()):
            color, mark = _COLORS[index % 4], _MARKS[index % 4]
            width = 2.2 if name == main else 1.4
            style = _DASHES[index % 4]
            axes.plot(ks, values, color=color, linewidth=width, linestyle=style)
            for k, value in zip(ks, values, strict=True):
                words = f"{name}, k = {k}: {value:.3f}"
                _mark(axes, k, value, color=color, mark=mark, words=words)
            axes.plot(
                [], [], color=color, linestyle=style, marker=mark, markersize=4.5,
                label=_shortened(name),
            )  # fmt: skip
        axes.plot(ks, chance, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), label="random")
        axes.set_xticks(ks)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("k")
        axes.set_ylabel(label)
        axes.grid(visible=True, axis="y")
        _legend_above(axes)

    return _svg(draw, height=3.0, alt=f"{label} over k")


def score_histogram(shares: Mapping[str, Sequence[float]]) -> str:
    """Draw histograms of the scores of positives and negatives over [0, 1].

    Args:
        shares: `positives` and `negatives`: share of rows in each bin, bins of equal width.
    """

    def draw(axes: Axes) -> None:
        names = {"negatives": "other candidates", "positives": "true next items"}
        for (name, words), color, style in zip(
            names.items(), (OTHER, ACCENT), ("--", "-"), strict=True
        ):
            values = list(shares[name])
            edges = [edge / len(values) for edge in range(len(values) + 1)]
            axes.stairs(values, edges, color=color, fill=True, alpha=0.22)
            axes.stairs(values, edges, color=color, linewidth=1.4, linestyle=style, label=words)
        # Invisible bars of full height, which show the values of their bin on hover.
        positives, negatives = list(shares["positives"]), list(shares["negatives"])
        top = max((*positives, *negatives), default=0.0) or 1.0
        for bin_, (first, second) in enumerate(zip(positives, negatives, strict=True)):
            low, high = bin_ / len(positives), (bin_ + 1) / len(positives)
            words = (
                f"P(yes) {low:.2f} to {high:.2f}: {first:.1%} of the true next items, "
                f"{second:.1%} of the others"
            )
            axes.axvspan(low, high, alpha=0.0, linewidth=0, gid=_HOVER + words)
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.05 * top)
        axes.set_xlabel("P(yes)")
        axes.set_ylabel("share of candidates")
        axes.grid(visible=True, axis="y")
        _legend_above(axes)

    return _svg(draw, height=2.9, alt="Scores of true next items and of other candidates")


def reliability_diagram(series: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Draw the observed share of positives over the predicted probability.

    Points on the diagonal are perfectly calibrated.

    Args:
        series: By label, records with `predicted`, `observed` and `weight`.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        for index, (name, bins) in enumerate(series.items()):
            color, mark, style = _COLORS[index], _MARKS[index], _DASHES[index]
            x, y = [b["predicted"] for b in bins], [b["observed"] for b in bins]
            axes.plot(x, y, color=color, linewidth=1.4, linestyle=style)
            axes.plot([], [], color=color, linestyle=style, marker=mark, markersize=5, label=name)
            for record in bins:
                words = (
                    f"{name}: predicted {record['predicted']:.3f}, observed "
                    f"{record['observed']:.3f}, {record['weight']:.1%} of the scores"
                )
                size = (12 + 220 * record["weight"]) ** 0.5
                at = (record["predicted"], record["observed"])
                _mark(axes, *at, color=color, mark=mark, words=words, size=size)
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("predicted P(yes)")
        axes.set_ylabel("share of true next items")
        axes.grid(visible=True)
        if len(series) > 1:
            _legend_above(axes)

    return _svg(draw, height=2.9, alt="Reliability of probabilities")


def _mark(
    axes: Axes, x: float, y: float, *, color: str, mark: str, words: str, size: float = 5.0
) -> None:
    """Draw one mark that shows `words` on hover."""
    axes.plot(
        [x], [y], color=color, marker=mark, markersize=size, linestyle="", gid=_HOVER + words,
        clip_on=False,
    )  # fmt: skip


def _shortened(name: str) -> str:
    """Shorten a label, so that the axes keep their space; titles on hover have it in full."""
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"


def _legend_above(axes: Axes) -> None:
    """Draw the legend above the axes, in as many columns as its longest label leaves space for."""
    _, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3 if longest < 12 else 2,
        handlelength=1.8,
        columnspacing=1.0,
        handletextpad=0.5,
    )


def _svg(draw: Callable[[Axes], Any], *, height: float, alt: str) -> str:
    """Draw on one pair of axes and return SVG that can be embedded in a page."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    # The description is unique in a report, so that the ids of elements are unique as well.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": alt}):
        figure = Figure(figsize=(4.1, height), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    hover = re.compile(rf'<g id="{_HOVER}([^"]*)"([^>]*)>')
    text = hover.sub(r'<g class="hover"\2><title>\1</title>', text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    opening = re.search(r'viewBox="[^"]*"', text)
    box = opening.group(0) if opening else ""
    text = re.sub(r"^<svg[^>]*>", f'<svg {box} role="img" aria-label="{html.escape(alt)}">', text)
    text = text.replace("xlink:href", "href")
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return text
