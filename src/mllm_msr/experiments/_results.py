"""Writes what an experiment found: a table as Markdown, a figure as SVG and PNG, and the data.

Everything that is printed can be recomputed from `NAME.parquet`, which has one row per system,
seed, negatives, user and metric.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.evaluator import Evaluation
from mllm_msr.evaluation.report.tables import ALPHA, kind_title, ordered_kinds
from mllm_msr.experiments._common import Experiment, Row
from mllm_msr.experiments._figures import draw
from mllm_msr.storage import atomic

_PROTOCOL: Final = (
    "The paper's results come from another protocol. In the code released with it the target is "
    "not the user's next item, items are chosen by their global frequency, and equal scores favour "
    "the true item; a mere count of popularity stands above several of its rows. They are given "
    "for reference and compare with no row above."
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured.

    Attributes:
        rows: The systems, in the experiment's order.
        evaluation: All seeds judged together.
        per_user: `tables.METRICS_PER_USER` with a column `seed`.
        seeds: The seeds.
        worlds: Whether a seed is another generated world.
        settings: The run's settings.
        model: Identity of the model that was asked.
    """

    rows: Sequence[Row]
    evaluation: Evaluation
    per_user: pl.DataFrame
    seeds: tuple[int, ...]
    worlds: bool
    settings: Settings
    model: str


def write_results(experiment: Experiment, findings: Findings, folder: Path) -> None:
    """Write `NAME.md`, `.svg`, `.png`, `.parquet` and `.json`.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    path = folder / experiment.name
    with atomic.replace_file(path.with_suffix(".parquet")) as temporary:
        findings.per_user.write_parquet(temporary, compression="zstd")
    atomic.write_text(
        path.with_suffix(".json"), json.dumps(_record(experiment, findings), indent=2) + "\n"
    )
    rows = [row for row in findings.rows if row.name in findings.evaluation.summary]
    for kind in ("svg", "png"):
        with atomic.replace_file(path.with_suffix(f".{kind}")) as temporary:
            draw(
                temporary,
                kind,
                rows=_in_order(rows),
                summary=findings.evaluation.summary,
                chance=findings.evaluation.details["chance"],
                metrics=experiment.metrics,
                axis=experiment.axis,
            )
    atomic.write_text(path.with_suffix(".md"), "\n".join(_page(experiment, findings)) + "\n")


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows of a sweep along its axis, others as they are."""
    return sorted(rows, key=lambda row: row.x if row.x is not None else 0.0)


def _record(experiment: Experiment, findings: Findings) -> dict[str, Any]:
    details = findings.evaluation.details
    names = ["model", "negatives", "metric", "seed"]
    by_seed = findings.per_user.group_by(names).agg(
        mean=pl.col("value").sort().mean(), users=pl.len()
    )
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "dataset": findings.settings.dataset,
        "model": findings.model,
        "seeds": list(findings.seeds),
        "seeds_are": "worlds" if findings.worlds else "starts of training",
        "rows": [
            {
                "name": row.name,
                "label": row.label,
                "x": row.x,
                "results": findings.evaluation.summary.get(row.name),
            }
            for row in findings.rows
        ],
        "by_seed": by_seed.sort(names).to_dicts(),
        "comparisons": details["comparisons"],
        "chance": details["chance"],
        "reference": {
            dataset: {label: dict(values) for label, values in rows.items()}
            for dataset, rows in experiment.reference.items()
        },
        "settings": findings.settings.model_dump(mode="json"),
    }


def _page(experiment: Experiment, findings: Findings) -> Iterator[str]:
    yield f"# {experiment.title}"
    yield ""
    yield _conditions(findings)
    kinds = {kind for by_kind in findings.evaluation.summary.values() for kind in by_kind}
    for kind in ordered_kinds(sorted(kinds)):
        yield from _table(experiment, findings, kind)
        yield from _tests(experiment, findings, kind)
    yield from ("", f"![{experiment.title}]({experiment.name}.svg)", "", "## In the paper", "")
    yield experiment.claim
    for dataset, rows in experiment.reference.items():
        metrics = list(next(iter(rows.values())))
        yield from ("", f"{dataset}:", "", *_header(["system", *map(_metric, metrics)]))
        for label, values in rows.items():
            yield _line([label, *(f"{values[name]:.2f}" for name in metrics)])
    yield from ("", _PROTOCOL)
    for caveat in experiment.caveats:
        yield from ("", caveat)


def _conditions(findings: Findings) -> str:
    seeds = ", ".join(map(str, findings.seeds))
    tuned = "" if findings.settings.train.enabled else " without fine-tuning"
    what = "Worlds" if findings.worlds else "Seeds of training"
    folds = findings.per_user["fold"].n_unique()
    users = findings.per_user.select("seed", "user_id").unique()
    if not findings.worlds:
        users = users.select("user_id").unique()
    return (
        f"Data set `{findings.settings.dataset}`, model `{findings.model}`{tuned}. "
        f"{what}: {seeds}. Folds tested: {folds}. Test users: {users.height:,}. "
        "Means over users with 95% percentile bootstrap intervals; ties count by their expected "
        "value over random order."
    )


def _table(experiment: Experiment, findings: Findings, kind: str) -> Iterator[str]:
    yield from ("", f"## {kind_title(kind)}", "")
    yield from _header(["system", *map(_metric, experiment.metrics)])
    for row in _in_order(findings.rows):
        cells = findings.evaluation.summary.get(row.name, {}).get(kind)
        if cells is not None:
            yield _line([row.label, *(_interval(cells[name]) for name in experiment.metrics)])
    chance = findings.evaluation.details["chance"].get(kind, {})
    yield _line(["random order", *(f"{chance[name]:.3f}" for name in experiment.metrics)])


def _tests(experiment: Experiment, findings: Findings, kind: str) -> Iterator[str]:
    """The first row against every other one, user by user, in the first metric."""
    metric, first = experiment.metrics[0], findings.rows[0]
    labels = {row.name: row.label for row in findings.rows}
    found = [
        record
        for record in findings.evaluation.details["comparisons"]
        if record["negatives"] == kind
        and record["metric"] == metric
        and first.name in {record["first"], record["second"]}
    ]
    if not found:
        return
    yield ""
    yield (
        f"{first.label} against each other row in {_metric(metric)}: paired differences, p-values "
        "of sign-flip tests, Holm corrected over all pairs of this table:"
    )
    yield from ("", *_header(["against", "difference", "p", ""]))
    for record in found:
        sign = 1 if record["first"] == first.name else -1
        ends = sorted((sign * record["low"], sign * record["high"]))
        other = labels[record["second" if sign == 1 else "first"]]
        shown = f"{sign * record['difference']:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        p = record["p_holm"]
        verdict = "significant" if p < ALPHA else "not significant"
        yield _line([other, shown, f"{p:.4f}", verdict])


def _metric(name: str) -> str:
    return name.upper()


def _interval(cell: Mapping[str, float]) -> str:
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _header(columns: Sequence[str]) -> tuple[str, str]:
    return _line(columns), "|" + "---|" * len(columns)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
