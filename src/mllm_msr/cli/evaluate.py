"""`evaluate`: compute the metrics of a run or of external scores for external candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ConfigOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    parse_path,
    settings_help,
)
from mllm_msr.cli._output import emit, unbroken
from mllm_msr.cli._results import emit_results, result_tables
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.evaluation.evaluator import Evaluation


@register(
    "evaluate", "Compute the metrics of a run or of score files", cls=settings_help("evaluate")
)
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Candidates of an external experiment.", parser=parse_path
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Scores of these candidates by one model; repeatable.",
            parser=parse_path,
        ),
    ] = None,
    main: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the score file to compare with each other one, without its ending; "
            "default: the first.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write all their metrics and differences to, as JSON.",
            parser=parse_path,
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate the scores of a run, or external tables of scores.

    Several score files are compared on their common users: the differences between the first (or
    --main) and each other, with 95% intervals and p-values with Holm's correction. --json and --out
    add the differences of all pairs and metrics.
    """
    if candidates is not None and scores:
        from mllm_msr.config.loading import load_settings
        from mllm_msr.pipeline.pipeline import evaluate_files

        checked = load_settings(preset or "default", settings or (), file=config)
        evaluation = evaluate_files(candidates, scores, checked, main=main)
        _emit_external(evaluation, main, out, as_json=as_json)
        return
    _require_no_files(candidates, scores, main, out)
    with open_pipeline(run, preset, config, settings, force=force) as pipeline:
        pipeline.run_stage("evaluate")
        emit_results(pipeline, as_json=as_json)


def _require_no_files(
    candidates: Path | None, scores: Sequence[Path] | None, main: str | None, out: Path | None
) -> None:
    """Raise an error if some options of external scores are given, but not all that they need."""
    if candidates is not None or scores:
        given = "--scores" if candidates is None else "--candidates"
        raise UsageError(
            f"--candidates and --scores must be given together, but only {given} is given. "
            "Give both, or neither to evaluate a run folder."
        )
    if main is not None:
        raise UsageError(
            f"--main {main} names a score file, but there is none. Give --candidates and "
            "--scores, or use `mllm-msr compare` for the models of a run."
        )
    if out is not None:
        raise UsageError(
            f"--out {out} is for the metrics of score files, but there are none. Give --candidates "
            "and --scores. The metrics of a run are in its metrics.json, and --json prints them."
        )


def _emit_external(
    evaluation: Evaluation, main: str | None, out: Path | None, *, as_json: bool
) -> None:
    """Write the results of external scores to a file, and print them as JSON or as tables."""
    result = {"metrics": evaluation.summary, "comparisons": evaluation.details["comparisons"]}
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plain = "" if as_json else _format_external(evaluation, main, out)
    emit(result, as_json=as_json, plain=plain)


def _format_external(evaluation: Evaluation, main: str | None, out: Path | None) -> RenderableType:
    """Return the tables of external scores, and the path of the file with all metrics."""
    from rich.console import Group

    where = f"All metrics: {out or 'add --json, or --out FILE'}"
    first = next(iter(evaluation.summary))
    tables = result_tables(evaluation.summary, evaluation.details, main=main or first)
    return Group(*tables, unbroken([where]))
