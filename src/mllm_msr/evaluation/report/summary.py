"""Summary of the report: the standing of the main model in words, and the bars of the best models.

The summary names the best model of every table, also if it is not the main model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mllm_msr.evaluation import metrics as metric_registry
from mllm_msr.evaluation.report.tables import (
    RANDOM,
    ZERO_SHOT,
    ResultTable,
    Role,
    Row,
    Verdict,
    best_first,
)

_N_BARS: Final = 3
# Smaller differences are rounding errors of means.
_EQUAL: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Bar:
    """Value of one model in a tile.

    Attributes:
        model: Name of the model, or that of random order.
        value: Mean of the first metric of the table.
        role: Role of the model.
    """

    model: str
    value: float
    role: Role


@dataclass(frozen=True, slots=True)
class Tile:
    """Standing of the main model under one kind of negatives.

    Attributes:
        title: Title of the kind of negatives.
        metric: First metric of the table.
        row: Row of the main model, or of the best model if the main model has no result.
        bars: The best models, the main model and random order, the best first.
        sentences: The standing in words; the first sentence states the rank.
    """

    title: str
    metric: str
    row: Row
    bars: tuple[Bar, ...]
    sentences: tuple[str, ...]


def build_tiles(
    tables: Sequence[ResultTable], verdicts: Sequence[Verdict], *, labels: Mapping[str, str]
) -> list[Tile]:
    """Return a tile for each result table with a result.

    Args:
        tables: The result tables.
        verdicts: Comparisons of the main model with the others.
        labels: Labels by model name; models without one are shown by their name.
    """
    tiles = []
    for table in tables:
        ranked = _ranked(table)
        if not ranked:
            continue
        main = next((row for row in ranked if row.role == "main"), None)
        shown = [row for row in ranked[:_N_BARS] if row is not main]
        shown += [row for row in (main, table.expected) if row is not None]
        bars = [Bar(row.model, row.cells[0].mean or 0.0, row.role) for row in shown]
        bars.sort(key=lambda bar: best_first(bar.value, table.metrics[0]))
        against = {verdict.other: verdict for verdict in verdicts if verdict.kind == table.kind}
        sentences = _sentences(table, ranked, against, labels=labels)
        tiles.append(
            Tile(table.title, table.metrics[0], main or ranked[0], tuple(bars), tuple(sentences))
        )
    return tiles


def _ranked(table: ResultTable) -> list[Row]:
    """Return the rows of models with a value of the first metric, the best first."""
    return [
        row
        for row in table.rows
        if row.model != RANDOM and row.cells and row.cells[0].mean is not None
    ]


def _sentences(
    table: ResultTable,
    ranked: Sequence[Row],
    against: Mapping[str, Verdict],
    *,
    labels: Mapping[str, str],
) -> list[str]:
    def name(row: Row) -> str:
        return labels.get(row.model, row.model)

    def value(row: Row) -> str:
        return f"{metric} {row.cells[0].mean:.3f}"

    metric = metric_registry.label(table.metrics[0])
    best, chance = ranked[0], table.expected
    main = next((row for row in ranked if row.role == "main"), None)
    if main is None:
        unranked = next((row for row in table.rows if row.role == "main"), None)
        first = [f"{name(unranked)} is {unranked.remark}."] if unranked else []
        who = f"The best of {len(ranked)} models" if len(ranked) > 1 else "The only ranked model"
        return [*first, f"{who} is {name(best)} ({value(best)})."]
    rank = 1 + sum(
        best_first(row.cells[0].mean or 0.0, table.metrics[0])
        < best_first(main.cells[0].mean or 0.0, table.metrics[0])
        for row in ranked
    )
    place = f"ranks {_ordinal(rank)} of {len(ranked)} models"
    place = place if len(ranked) > 1 else "is the only ranked model"
    found = [f"{name(main)} {place} ({value(main)})."]
    others = [row for row in ranked if row is not main]
    compared = [*others[:1], *(row for row in others[1:] if row.model == ZERO_SHOT)]
    for row in compared:
        role = "the best model" if row is best else "the next best" if row is others[0] else ""
        subject = "It" if len(found) == 1 else name(main)
        found += _gap(against.get(row.model), subject=subject, other=name(row), role=role)
    if chance is not None and chance.cells and (expected := chance.cells[0].mean) is not None:
        limit = main.cells[0].low if main.cells[0].low is not None else main.cells[0].mean
        if limit is not None and limit <= expected:
            found.append(
                f"{name(main)} is not significantly better than random order "
                f"({metric} {expected:.3f})."
            )
    return found


def _gap(verdict: Verdict | None, *, subject: str, other: str, role: str) -> list[str]:
    """Return a sentence about the difference between the main model and another one."""
    if verdict is None:
        return []
    if abs(verdict.difference) < _EQUAL:
        return [f"{other} is equally good."]
    ahead = best_first(verdict.difference, verdict.metric) < 0
    p = "p < 0.001" if verdict.p < 0.001 else f"p = {verdict.p:.3f}"
    significance = f"not significant, {p}" if verdict.outcome == "not significant" else p
    size = f"{abs(verdict.difference):.3f}"
    if ahead:
        other = ", ".join(filter(None, [other, role]))
        return [f"{subject} is {size} ahead of {other} ({significance})."]
    other = f"{other}, {role}," if role else other
    return [f"{other} is {size} ahead ({significance})."]


def _ordinal(rank: int) -> str:
    """Return a rank as text.

    >>> [_ordinal(rank) for rank in (1, 2, 3, 11, 22)]
    ['1st', '2nd', '3rd', '11th', '22nd']
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{'th' if rank % 100 in {11, 12, 13} else ending}"
