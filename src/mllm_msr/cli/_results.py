"""Results of a run as tables for the terminal: models from best to worst, verdict and next step."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mllm_msr.cli._output import emit, make_table, unbroken

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mllm_msr.evaluation.report.tables import Cell, ResultTable, Verdict
    from mllm_msr.pipeline.pipeline import Pipeline

_BEST_MARK: Final = "*"
# With fewer other models, the verdict already has all comparisons.
_MIN_PAIRS: Final = 3


def emit_results(pipeline: Pipeline, *, as_json: bool, is_served: bool = False) -> None:
    """Print the results of an evaluated run as JSON or as tables.

    Args:
        pipeline: The run.
        as_json: Whether to print JSON.
        is_served: Whether the command serves the run next, so that it need not be suggested.
    """
    if as_json:
        emit(pipeline.result(), as_json=True)
    else:
        emit({}, as_json=False, plain=run_results(pipeline, is_served=is_served))


def run_results(pipeline: Pipeline, *, is_served: bool = False) -> RenderableType:
    """Return the results of an evaluated run: tables, verdicts, notes, report and next step."""
    from rich.console import Group
    from rich.text import Text

    from mllm_msr.storage import layout

    result = pipeline.result()
    details = pipeline.run.read_json(layout.DETAILS)
    lines = [f"Note    {model}: {note}." for model, note in result["notes"].items()]
    if result["report"] is not None:
        lines.append(f"Report  {display_path(result['report'])}")
    folder = display_path(result["run"])
    step = "report" if result["report"] is None else "serve"
    if not is_served:
        lines.append(f"Next    {shlex.join(['mllm-msr', step, '--run', folder])}")
    advice = [Text(f"Advice  {step}") for step in _advice(pipeline, result["metrics"], details)]
    return Group(*result_tables(result["metrics"], details), *advice, unbroken(lines))


def _advice(
    pipeline: Pipeline, metrics: Mapping[str, Any], details: Mapping[str, Any]
) -> list[str]:
    """Return what to do if a baseline is ahead of MLLM-MSR."""
    from mllm_msr.evaluation.report import tables
    from mllm_msr.evaluation.report.next_steps import next_steps
    from mllm_msr.pipeline.recommenders import label_of

    main = tables.main_model(metrics)
    return next_steps(
        tables.result_tables(metrics, chance=details.get("chance", {}), main=main),
        tables.verdicts(details.get("comparisons", ()), main=main),
        config=pipeline.settings.model_dump(mode="json"),
        manifest=pipeline.run.stages,
        labels={model: label_of(model) for model in metrics},
    )


def display_path(path: Path | str) -> str:
    """Return a path relative to the current folder if it is inside it, else as it is."""
    absolute = Path(path).absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)


def result_tables(
    metrics: Mapping[str, Any], details: Mapping[str, Any], *, main: str | None = None
) -> Iterator[RenderableType]:
    """Yield a table with its verdict for each kind of negatives, and one of the differences.

    Args:
        metrics: `Evaluation.summary`, the content of `metrics.json`.
        details: `Evaluation.details`; without comparisons there are no verdicts.
        main: The model that was to be compared with each other one; all its differences are shown.
            By default the main model of the report, and the verdicts say enough about few others.
    """
    from rich.text import Text

    from mllm_msr.evaluation.comparisons import MAIN
    from mllm_msr.evaluation.report import tables
    from mllm_msr.evaluation.report.summary import build_tiles
    from mllm_msr.pipeline.recommenders import label_of

    min_pairs = _MIN_PAIRS if main is None else 1
    is_planned = main is not None or MAIN in metrics  # so that its comparisons are a family
    main = tables.main_model(metrics) if main is None else main
    results = tables.result_tables(metrics, chance=details.get("chance", {}), main=main)
    verdicts = tables.verdicts(details.get("comparisons", ()), main=main)
    labels = {model: label_of(model) for model in metrics}
    tiles = {tile.title: tile for tile in build_tiles(results, verdicts, labels=labels)}
    for result in results:
        has_best = any(cell.best for row in result.rows for cell in row.cells)
        best = f" ({_BEST_MARK} best of its column)" if has_best else ""
        yield Text(f"{result.title}, {result.n_users:,} users{best}", style="bold")
        yield _format_table(result, labels)
        sentences = tiles[result.title].sentences if result.title in tiles else ()
        unranked = [labels[name] for name in metrics if name not in {*_ranked(result), main}]
        rest = [f"Not ranked: {', '.join(unranked)}."] if unranked else []
        yield Text(" ".join([*sentences, *rest]) + "\n")
    if len({verdict.other for verdict in verdicts}) >= min_pairs:
        yield _format_pairs(verdicts, labels, main)
        if is_planned:
            yield Text("p: corrected for the comparisons of this table under the same negatives.")


def _ranked(result: ResultTable) -> set[str]:
    """Return the models with a value in a table, and the name of random order."""
    return {row.model for row in result.rows if row.cells and row.cells[0].mean is not None}


def _format_table(result: ResultTable, labels: Mapping[str, str]) -> Table:
    """Return the rows with values, the best model first and random order last."""
    from rich.text import Text

    from mllm_msr.evaluation import metrics as metric_registry

    names = [f"{metric_registry.label(name)} " for name in result.metrics]
    table = make_table("model", names[0], "95% interval", *names[1:])
    for row in result.rows:
        if row.model not in _ranked(result):
            continue
        label = "(random order)" if row.role == "random" else labels.get(row.model, row.model)
        first, *others = row.cells
        table.add_row(
            Text(label, style="bold" if row.role == "main" else ""),
            _format_cell(first),
            "" if first.low is None else f"{first.low:.3f}-{first.high:.3f}",
            *(_format_cell(cell) for cell in others),
            style="dim" if row.role == "random" else "",
        )
    return table


def _format_pairs(verdicts: Sequence[Verdict], labels: Mapping[str, str], main: str) -> Table:
    """Return the differences between the main model and all others, with corrected p-values.

    Args:
        verdicts: The comparisons of the main model.
        labels: Labels by model name.
        main: The main model.
    """
    from mllm_msr.evaluation import metrics as metric_registry
    from mllm_msr.evaluation.report.tables import kind_title

    metric = metric_registry.label(verdicts[0].metric)
    table = make_table(
        f"{labels.get(main, main)} minus", "negatives", metric, "95% interval", "p", "p, all pairs",
        left=(0, 1),
    )  # fmt: skip
    for verdict in verdicts:
        table.add_row(
            labels.get(verdict.other, verdict.other),
            kind_title(verdict.kind).removesuffix(" negatives").lower(),
            f"{verdict.difference:+z.3f}",
            f"{verdict.low:+z.3f} {verdict.high:+z.3f}",
            f"{verdict.p:.4f}",
            f"{verdict.p_all:.4f}",
        )
    return table


def _format_cell(cell: Cell) -> Any:
    from rich.text import Text

    if cell.mean is None:
        return "-"
    mark = _BEST_MARK if cell.best else " "
    return Text(f"{cell.mean:.3f}{mark}", style="bold" if cell.best else "")
