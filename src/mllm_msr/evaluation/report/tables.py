"""Result tables and verdicts of the report as plain records, without markup.

Both templates (HTML and Markdown) render the same records. Values that were not measured are
None. Models are identified by their names; the templates show their labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mllm_msr.evaluation.comparisons import MAIN
from mllm_msr.evaluation.metrics import (
    FULL_K,
    HEADLINE,
    TIES,
    higher_is_better,
    summary_names,
)

POPULARITY: Final = "popularity"
ZERO_SHOT: Final = "zero_shot"
RANDOM: Final = "random"
POOLED: Final = "pooled_auc"
ALPHA: Final = 0.05

Role = Literal["main", "popularity", "random", "baseline"]
Outcome = Literal["better", "worse", "not significant"]

_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "uniform": (
        "Uniform negatives",
        "The other candidates are drawn uniformly from the items new to the user.",
    ),
    "popularity": (
        "Popularity negatives",
        "The other candidates are drawn by popularity, so that popularity alone does not help.",
    ),
    "full": ("Full catalog", "Every item new to the user is a candidate."),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Number in a table, with its interval if there is one."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Row of a result table.

    Attributes:
        model: Name of the model.
        remark: Short note below the label; may be empty.
        role: Role of the row in the table.
        cells: One cell per metric of the table.
        ties: Share of users whose true item has the same score as another candidate.
    """

    model: str
    remark: str
    role: Role
    cells: tuple[Cell, ...]
    ties: float | None = None


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Results of all models for one kind of negatives.

    Attributes:
        kind: Kind of negatives.
        title: Title of the kind.
        note: One sentence about the candidates.
        metrics: Names of the columns.
        rows: Models, the best first, then the value of a random order.
        n_users: Largest number of users of a row.
        not_ranked: Models without a result of this kind, by the setting that would rank them.
    """

    kind: str
    title: str
    note: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    n_users: int
    not_ranked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def expected(self) -> Row | None:
        """Return the row of random order, if its values are known."""
        return next((row for row in self.rows if row.role == "random"), None)

    @property
    def scale(self) -> tuple[float, float] | None:
        """Return the ends of an axis, multiples of 0.05, that shows the first column's intervals.

        None if fewer than two models have a result to compare.
        """
        cells = [row.cells[0] for row in self.rows if row.cells]
        shown = [cell for cell in cells if cell.mean is not None]
        if sum(cell.low is not None for cell in shown) < 2:
            return None
        ends = [end for c in shown for end in (c.mean, c.low, c.high) if end is not None]
        first, last = math.floor(20 * min(ends)), math.ceil(20 * max(ends))
        return first / 20, max(last, first + 1) / 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """Comparison of the main model with another one by one metric, on their common users.

    Attributes:
        kind: Kind of negatives.
        metric: The metric.
        other: Name of the other model.
        difference: Mean of the main model minus that of the other one.
        low: Lower end of the interval of the difference.
        high: Upper end of the interval of the difference.
        better: Share of users for whom the main model is better.
        worse: Share of users for whom the main model is worse.
        n: Number of users.
        p: p-value, corrected over the comparisons of the main model; over all pairs of models if
            the main model is only the best of several.
        p_all: p-value, corrected over all pairs of models.
    """

    kind: str
    metric: str
    other: str
    difference: float
    low: float
    high: float
    better: float
    worse: float
    n: int
    p: float
    p_all: float

    @property
    def outcome(self) -> Outcome:
        """Return whether the main model is significantly better or worse."""
        return outcome(self.difference, self.p, metric=self.metric)


def outcome(difference: float, p: float, *, metric: str) -> Outcome:
    """Return the outcome of a comparison for its first model.

    Args:
        difference: Mean of the first model minus that of the second.
        p: Corrected p-value.
        metric: Name of the metric.
    """
    if p >= ALPHA:
        return "not significant"
    return "better" if (difference > 0) == higher_is_better(metric) else "worse"


def best_value(values: Sequence[float], metric: str) -> float:
    """Return the best of some values of a metric."""
    return max(values) if higher_is_better(metric) else min(values)


def best_first(value: float, metric: str) -> float:
    """Return a sort key that puts the best value of a metric first."""
    return -value if higher_is_better(metric) else value


def kind_title(kind: str) -> str:
    """Return the title of a kind of negatives."""
    return _KINDS.get(kind, (kind, ""))[0]


def ordered_kinds(kinds: Sequence[str]) -> list[str]:
    """Return kinds of negatives in the order of the report: uniform, popularity, full, others."""
    return [k for k in _KINDS if k in kinds] + sorted(k for k in kinds if k not in _KINDS)


def role_of(model: str, main: str) -> Role:
    """Return the role of an evaluated model in the tables."""
    return "main" if model == main else "popularity" if model == POPULARITY else "baseline"


def eligible_models(metrics: Mapping[str, Any]) -> list[str]:
    """Return the models that can be the main model: all but popularity and zero-shot."""
    return [model for model in metrics if model not in {POPULARITY, ZERO_SHOT}]


def main_model(metrics: Mapping[str, Any]) -> str:
    """Return the main model of the report: MLLM-MSR, otherwise the best eligible model.

    The best model has the best mean of the headline metric under the first kind of negatives, in
    the order of the report.

    Args:
        metrics: `{model: {negatives: {metric: {mean, low, high, n}}}}`.

    Returns:
        A name; empty without any model.
    """
    if MAIN in metrics:
        return MAIN

    def order(model: str) -> float:
        kinds = ordered_kinds(list(metrics[model]))
        cell = metrics[model][kinds[0]].get(HEADLINE, {"mean": 0.0}) if kinds else {"mean": 0.0}
        return best_first(cell["mean"], HEADLINE)

    return min(eligible_models(metrics) or metrics, key=order, default="")


def result_tables(
    metrics: Mapping[str, Any],
    *,
    chance: Mapping[str, Mapping[str, float]],
    main: str,
    remarks: Mapping[str, str] | None = None,
    shown: Sequence[str] | None = None,
    n_seeds: Mapping[str, int] | None = None,
    ranked_by: Mapping[str, str] | None = None,
) -> list[ResultTable]:
    """Build one table per kind of negatives, with the best model first and random order last.

    Popularity always has a row, even if it was not evaluated. In the table of the full catalog, so
    does every model that only has results on samples. The best mean of a column is only marked if
    it is better than random order.

    Args:
        metrics: `{model: {negatives: {metric: {mean, low, high, n}}}}`.
        chance: `{negatives: {metric: value}}` of a random order.
        main: The model to highlight.
        remarks: Notes by model name.
        shown: Metrics to show, in this order; by default those of the summary.
        n_seeds: Number of seeds of the models with several.
        ranked_by: Setting by model that enables the ranking of the full catalog.
    """
    tables = []
    for kind in ordered_kinds(list({kind for by_kind in metrics.values() for kind in by_kind})):
        entries = {model: by_kind[kind] for model, by_kind in metrics.items() if kind in by_kind}
        wanted = shown or (summary_names(FULL_K) if kind == "full" else summary_names())
        columns = tuple(name for name in wanted if any(name in entry for entry in entries.values()))
        first, by_chance = columns[0] if columns else HEADLINE, chance.get(kind, {})
        rows = [
            Row(
                model,
                _remark(model, remarks or {}, n_seeds or {}),
                role_of(model, main),
                cells,
                entries[model].get(TIES, {}).get("mean"),
            )
            for model, cells in _cells(entries, columns, chance=by_chance).items()
        ]
        blank = tuple(Cell(None) for _ in columns)
        absent = [model for model in metrics if kind == "full" and model not in entries]
        rows += [Row(model, "not ranked", role_of(model, main), blank) for model in absent]
        if POPULARITY not in {row.model for row in rows}:
            rows.append(Row(POPULARITY, "not evaluated", "popularity", blank))
        if by_chance:
            expected = tuple(Cell(by_chance.get(name)) for name in columns)
            rows.append(Row(RANDOM, "expected value", "random", expected))
        title, note = _KINDS.get(kind, (kind, ""))
        n_users = max(
            (int(entry[first]["n"]) for entry in entries.values() if first in entry), default=0
        )
        not_ranked = _by_setting(absent, ranked_by or {})
        tables.append(ResultTable(kind, title, note, columns, tuple(rows), n_users, not_ranked))
    return tables


def _remark(model: str, remarks: Mapping[str, str], n_seeds: Mapping[str, int]) -> str:
    seeds = n_seeds.get(model, 1)
    return ", ".join(
        filter(None, [remarks.get(model), f"mean of {seeds} seeds" if seeds > 1 else None])
    )


def _cells(
    entries: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    *,
    chance: Mapping[str, float],
) -> dict[str, tuple[Cell, ...]]:
    """Return the cells of each model, the best model by the first column first."""
    best = {}
    for name in columns:
        value = best_value([e[name]["mean"] for e in entries.values() if name in e], name)
        if name not in chance or best_first(value, name) < best_first(chance[name], name):
            best[name] = value
    first = columns[0] if columns else HEADLINE
    means = {model: entry.get(first, {"mean": 0.0})["mean"] for model, entry in entries.items()}
    return {
        model: tuple(cell(entries[model].get(name), best.get(name)) for name in columns)
        for model in sorted(entries, key=lambda model: best_first(means[model], first))
    }


def _by_setting(models: Sequence[str], ranked_by: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Group models by the setting that would rank them; models without one are left out."""
    settings = {model: ranked_by.get(model, "") for model in models}
    return {
        setting: tuple(model for model in models if settings[model] == setting)
        for setting in dict.fromkeys(filter(None, settings.values()))
    }


def all_cut_offs(
    metrics: Mapping[str, Any],
    *,
    chance: Mapping[str, Mapping[str, float]],
    main: str,
    pooled: Mapping[str, Mapping[str, float]],
) -> list[ResultTable]:
    """Build the result tables with every metric at every cut-off, and the pooled AUC.

    Args:
        metrics: `{model: {negatives: {metric: {mean, low, high, n}}}}`.
        chance: `{negatives: {metric: value}}` of a random order.
        main: The model to highlight.
        pooled: `{model: {negatives: pooled AUC}}`.
    """
    joined: dict[str, dict[str, dict[str, Any]]] = {}
    for model, by_kind in metrics.items():
        for kind, entry in by_kind.items():
            value = pooled.get(model, {}).get(kind)
            extra = {} if value is None else {POOLED: {"mean": value, "low": None, "high": None}}
            joined.setdefault(model, {})[kind] = {**entry, **extra}
    names = [name for by_kind in joined.values() for entry in by_kind.values() for name in entry]
    rest = dict.fromkeys(name for name in names if name not in {HEADLINE, POOLED, TIES})
    # Random order has the same value for both kinds of AUC.
    expected = {kind: {**values, POOLED: 0.5} for kind, values in chance.items()}
    return result_tables(joined, chance=expected, main=main, shown=[HEADLINE, POOLED, *rest])


def verdicts(comparisons: Sequence[Mapping[str, Any]], *, main: str) -> list[Verdict]:
    """Return the comparisons of the main model with all others by the headline metric.

    Args:
        comparisons: Records of `comparisons.compare_models`.
        main: The main model.

    Returns:
        Verdicts by kind of negatives, largest difference first.
    """
    found = []
    for record in comparisons:
        if record["metric"] != HEADLINE or main not in (record["first"], record["second"]):
            continue
        forward = record["first"] == main
        sign = 1.0 if forward else -1.0
        low, high = sorted((sign * record["low"], sign * record["high"]))
        found.append(
            Verdict(
                kind=record["negatives"],
                metric=HEADLINE,
                other=record["second"] if forward else record["first"],
                difference=sign * record["difference"],
                low=low,
                high=high,
                better=record["better"] if forward else record["worse"],
                worse=record["worse"] if forward else record["better"],
                n=record["n"],
                p=record["p_holm"] if record.get("p_main") is None else record["p_main"],
                p_all=record["p_holm"],
            )
        )
    order = ordered_kinds([verdict.kind for verdict in found])
    return sorted(found, key=lambda verdict: (order.index(verdict.kind), -verdict.difference))


def cell(found: Mapping[str, Any] | None, best: float | None = None) -> Cell:
    """Return the cell of a mean with its interval; empty for a value that was not measured.

    Args:
        found: A record with `mean`, and `low` and `high` if there is an interval.
        best: Best mean of the column.
    """
    if found is None:
        return Cell(None)
    return Cell(found["mean"], found.get("low"), found.get("high"), best=found["mean"] == best)
