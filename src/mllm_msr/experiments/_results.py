"""Results of an experiment: Markdown page, figure (SVG and PNG), JSON and Parquet.

Every value on the page can be recomputed from `NAME.parquet`, which has one row per system, seed,
kind of negatives, user and metric.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.config.settings import Settings
from mllm_msr.evaluation import metrics
from mllm_msr.evaluation.evaluator import Evaluation
from mllm_msr.evaluation.report.tables import ALPHA, kind_title, ordered_kinds
from mllm_msr.experiments._experiment import Experiment, System
from mllm_msr.experiments._figures import draw
from mllm_msr.storage import atomic

_PROTOCOL: Final = (
    "The paper uses a different protocol. In its released code the target is not the user's next "
    "item, items are selected by their global frequency, and ties favor the true item; popularity "
    "counts alone beat several of its rows. Do not compare the paper's values with the tables "
    "above."
)


@dataclass(frozen=True, slots=True)
class Results:
    """Results of an experiment.

    Attributes:
        systems: The systems, in the order of the experiment.
        evaluation: Evaluation of all seeds together.
        per_user: `tables.METRICS_PER_USER` with a column `seed`.
        seeds: The seeds.
        data_seeds: Whether the seeds are those of the generated data; otherwise training seeds.
        settings: The run's settings.
        model: Fingerprint of the model that answered the prompts.
    """

    systems: Sequence[System]
    evaluation: Evaluation
    per_user: pl.DataFrame
    seeds: tuple[int, ...]
    data_seeds: bool
    settings: Settings
    model: str


def write_results(experiment: Experiment, results: Results, folder: Path) -> None:
    """Write `NAME.md`, `.svg`, `.png`, `.parquet` and `.json`.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    path = folder / experiment.name
    with atomic.replace_file(path.with_suffix(".parquet")) as temporary:
        results.per_user.write_parquet(temporary, compression="zstd")
    record = json.dumps(_record(experiment, results), indent=2)
    atomic.write_text(path.with_suffix(".json"), record + "\n")
    evaluated = [s for s in results.systems if s.name in results.evaluation.summary]
    for file_format in ("svg", "png"):
        with atomic.replace_file(path.with_suffix(f".{file_format}")) as temporary:
            draw(
                temporary,
                file_format,
                systems=_by_x(evaluated),
                summary=results.evaluation.summary,
                chance=results.evaluation.details["chance"],
                metrics=experiment.metrics,
                axis=experiment.axis,
            )
    atomic.write_text(path.with_suffix(".md"), "\n".join(_page(experiment, results)) + "\n")


def _by_x(systems: Sequence[System]) -> list[System]:
    """Return the systems of a sweep in the order of its axis, and others in their own order."""
    return sorted(systems, key=lambda system: system.x if system.x is not None else 0.0)


def _record(experiment: Experiment, results: Results) -> dict[str, Any]:
    details = results.evaluation.details
    keys = ["model", "negatives", "metric", "seed"]
    by_seed = results.per_user.group_by(keys).agg(
        mean=pl.col("value").sort().mean(), users=pl.len()
    )
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "dataset": results.settings.dataset,
        "model": results.model,
        "seeds": list(results.seeds),
        "seeds_of": "data" if results.data_seeds else "training",
        "systems": [
            {
                "name": system.name,
                "label": system.label,
                "x": system.x,
                "results": results.evaluation.summary.get(system.name),
            }
            for system in results.systems
        ],
        "by_seed": by_seed.sort(keys).to_dicts(),
        "comparisons": details["comparisons"],
        "chance": details["chance"],
        "reference": {
            dataset: {label: dict(values) for label, values in systems.items()}
            for dataset, systems in experiment.reference.items()
        },
        "settings": results.settings.model_dump(mode="json"),
    }


def _page(experiment: Experiment, results: Results) -> Iterator[str]:
    """Yield the lines of the Markdown page."""
    settings = results.settings
    users = results.per_user.select(*(["seed"] if results.data_seeds else []), "user_id").unique()
    yield from (f"# {experiment.title}", "")
    yield (
        f"Dataset `{settings.dataset}`, model `{results.model}`"
        f"{'' if settings.train.enabled else ' without fine-tuning'}. "
        f"{'Data' if results.data_seeds else 'Training'} seeds: "
        f"{', '.join(map(str, results.seeds))}. "
        f"Test folds: {results.per_user['fold'].n_unique()}. Test users: {users.height:,}. "
        "Means over users with 95% percentile bootstrap intervals. Ties count with their expected "
        "value under random order."
    )
    kinds = {kind for by_kind in results.evaluation.summary.values() for kind in by_kind}
    for kind in ordered_kinds(sorted(kinds)):
        yield from _metric_table(experiment, results, kind)
        yield from _comparison_table(experiment, results, kind)
    yield from ("", f"![{experiment.title}]({experiment.name}.svg)")
    if experiment.claim:
        yield from ("", "## In the paper", "", experiment.claim)
        for dataset, systems in experiment.reference.items():
            names = list(next(iter(systems.values())))
            yield from ("", f"{dataset}:", "", *_header(["system", *map(metrics.label, names)]))
            for label, values in systems.items():
                yield _line([label, *(f"{values[name]:.2f}" for name in names)])
        yield from ("", _PROTOCOL)
    for caveat in experiment.caveats:
        yield from ("", caveat)


def _metric_table(experiment: Experiment, results: Results, kind: str) -> Iterator[str]:
    """Yield the table of means and intervals for one kind of negatives."""
    yield from ("", f"## {kind_title(kind)}", "")
    yield from _header(["system", *map(metrics.label, experiment.metrics)])
    for system in _by_x(results.systems):
        values = results.evaluation.summary.get(system.name, {}).get(kind)
        if values is not None:
            cells = (values[name] for name in experiment.metrics)
            shown = (f"{c['mean']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells)
            yield _line([system.label, *shown])
    chance = results.evaluation.details["chance"].get(kind, {})
    yield _line(["random order", *(f"{chance[name]:.3f}" for name in experiment.metrics)])


def _comparison_table(experiment: Experiment, results: Results, kind: str) -> Iterator[str]:
    """Yield the tests of the first system against each other system by the first metric."""
    metric, first = experiment.metrics[0], results.systems[0]
    labels = {system.name: system.label for system in results.systems}
    comparisons = [
        record
        for record in results.evaluation.details["comparisons"]
        if record["negatives"] == kind
        and record["metric"] == metric
        and first.name in {record["first"], record["second"]}
    ]
    if not comparisons:
        return
    yield ""
    yield (
        f"{first.label} against each other system in {metrics.label(metric)}: paired differences "
        "with p-values of sign-flip tests, Holm-corrected over these comparisons, and over all "
        "pairs of systems:"
    )
    yield from ("", *_header(["against", "difference", "p", "", "p, all pairs", ""]))
    for record in comparisons:
        sign = 1 if record["first"] == first.name else -1
        low, high = sorted((sign * record["low"], sign * record["high"]))
        difference = f"{sign * record['difference']:+z.3f} [{low:+z.3f}, {high:+z.3f}]"
        other = labels[record["second" if sign == 1 else "first"]]
        tests = [(record[name], record[name] < ALPHA) for name in ("p_main", "p_holm")]
        shown = [(f"{p:.4f}", "significant" if low else "not significant") for p, low in tests]
        yield _line([other, difference, *itertools.chain.from_iterable(shown)])


def _header(columns: Sequence[str]) -> tuple[str, str]:
    return _line(columns), "|" + "---|" * len(columns)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
