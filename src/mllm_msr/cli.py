"""The command `mllm-msr`: one thin command per stage, each importing only what it runs.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage
or settings. This is the only module that prints.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand

from mllm_msr.errors import MllmMsrError, UsageError

if TYPE_CHECKING:
    from mllm_msr.pipeline import Pipeline

app = typer.Typer(
    name="mllm-msr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ALL: Final = ("", "data", "model", "summarize", "infer", "train", "score", "evaluate", "report")

# Which sections of the settings a command's --help shows; "" stands for those without a section.
_SECTIONS: Final = {
    "prepare": ("", "data"),
    "summarize": ("model", "summarize"),
    "infer": ("model", "infer"),
    "train": ("model", "train"),
    "score": ("model", "score"),
    "evaluate": ("evaluate",),
    "report": ("report",),
    "run": _ALL,
    "demo": _ALL,
}


class _StageCommand(TyperCommand):
    """A command whose help ends with its settings; they are read only when help is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        from mllm_msr.config import reference

        sections = _SECTIONS.get(self.name or "", ())
        rows = [
            (f"{key}={default}", description)
            for key, _, default, description in reference()
            if key.rpartition(".")[0] in sections
        ]
        if rows:
            with formatter.section("Settings (key=value, with their defaults)"):
                formatter.write_dl(rows)


RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Redo finished work that other settings made.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="Preset to start from: sound, paper, paper-code, demo, ..."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, see below.")
]


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More messages.")] = False,
) -> None:
    """Multimodal sequential recommendation with multimodal large language models."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


@app.command("run", cls=_StageCommand)
def _run(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do every stage, from raw data to the report; goes on where it was stopped."""
    with _pipeline(run, preset, config, settings, force=force) as pipeline:
        pipeline.run_all()
        _show_result(pipeline, as_json=as_json)


@app.command("demo", cls=_StageCommand)
def _demo(
    settings: Overrides = None,
    run: RunOption = Path("runs/demo"),
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the whole method on a generated world with the packaged model."""
    with _pipeline(run, "demo", None, settings, force=force) as pipeline:
        pipeline.run_all()
        _show_result(pipeline, as_json=as_json)


def _add_stage(name: str, summary: str) -> None:
    """Register a command that does one stage and prints what it counted."""

    def command(
        settings: Overrides = None,
        run: RunOption = Path("runs/run"),
        preset: PresetOption = None,
        config: ConfigOption = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        with _pipeline(run, preset, config, settings, force=force) as pipeline:
            pipeline.run_stage(name)
            counts = pipeline.counts(name)
        _print(counts, as_json=as_json)

    app.command(name, cls=_StageCommand, help=summary)(command)


_add_stage("prepare", "Read, filter and split the data, and draw the candidates.")
_add_stage("summarize", "Summarise every item from its text and its picture.")
_add_stage("infer", "Infer every user's preference, block by block.")
_add_stage("train", "Fine-tune the recommender.")
_add_stage("score", "Score the test candidates with every model.")
_add_stage("report", "Write report.html and report.md of a run that has been judged.")


@app.command("evaluate", cls=_StageCommand)
def _evaluate(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Candidates of a foreign experiment.")
    ] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Its scores; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where metrics.json goes; else stdout.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge a run's scores, or any table of scores over any table of candidates."""
    if candidates is None and not scores:
        with _pipeline(run, preset, config, settings, force=force) as pipeline:
            pipeline.run_stage("evaluate")
            _show_result(pipeline, as_json=as_json)
        return
    if candidates is None or not scores:
        raise UsageError(
            needed="both --candidates and --scores",
            received="one of them",
            remedy="give both, or neither to judge a run folder",
        )
    from mllm_msr.config import load_settings
    from mllm_msr.pipeline import judge_files

    checked = load_settings(preset or "sound", settings or (), file=config)
    metrics = judge_files(candidates, scores, checked)
    text = json.dumps(metrics, indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        _print({"metrics": str(out)}, as_json=as_json)


@app.command("update")
def _update(
    interactions: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet or CSV: user_id, item_id, timestamp.")
    ],
    run: RunOption = Path("runs/run"),
    as_json: JsonOption = False,
) -> None:
    """Add new interactions and bring the preferences up to date, one prompt per open block."""
    with _pipeline(run, None, None, None, force=False) as pipeline:
        _print(pipeline.update(interactions), as_json=as_json)


@app.command("list")
def _list(
    kind: Annotated[
        str, typer.Argument(metavar="datasets|backends|baselines|presets", help="What to list.")
    ],
    as_json: JsonOption = False,
) -> None:
    """List the names that settings may use."""
    from mllm_msr import registry

    if kind == "presets":
        from mllm_msr.config import preset_names

        names = preset_names()
    elif kind in ("datasets", "backends", "baselines"):
        names = registry.names(kind)  # type: ignore[arg-type]
    else:
        raise UsageError(
            needed="one of datasets, backends, baselines, presets",
            received=repr(kind),
            remedy="choose one of them",
        )
    _print({kind: names}, as_json=as_json, plain="\n".join(names))


@contextlib.contextmanager
def _pipeline(
    run: Path,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    *,
    force: bool,
) -> Iterator[Pipeline]:
    """Open a run folder under its settings: those it has, or a preset's, and what is asked now."""
    from mllm_msr.config import load_settings
    from mllm_msr.pipeline import Pipeline

    kept = run / "config.yaml"
    if preset is None and config is None and kept.is_file():
        settings = load_settings(None, overrides or (), file=kept)
    else:
        settings = load_settings(preset or "sound", overrides or (), file=config)
    with Pipeline.open(run, settings, force=force, progress=_Bars()) as pipeline:
        yield pipeline


class _Bars:
    """Progress bars on stderr with rate and remaining time; silent when it is no terminal."""

    @contextlib.contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(name, total=total)
            yield lambda n: progress.advance(task, n)


def _show_result(pipeline: Pipeline, *, as_json: bool) -> None:
    result = pipeline.result()
    plain = "\n".join([*_metric_lines(result["metrics"]), "", *_paths(result)])
    _print(result, as_json=as_json, plain=plain)


def _metric_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """A plain table of the main metrics, one line per model and kind of negatives."""
    columns = ("auc", "hr@5", "mrr@5", "ndcg@5")
    yield f"{'model':<14}{'negatives':<12}{'users':>6}" + "".join(f"{c:>24}" for c in columns)
    for model, by_negatives in metrics.items():
        for negatives, values in by_negatives.items():
            n = max((values[c]["n"] for c in columns if c in values), default=0)
            cells = "".join(f"{_interval(values.get(c)):>24}" for c in columns)
            yield f"{model:<14}{negatives:<12}{n:>6}{cells}"


def _interval(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _paths(result: dict[str, Any]) -> list[str]:
    return [f"report: {result['report']}"] if result.get("report") else []


def _print(values: dict[str, Any], *, as_json: bool, plain: str | None = None) -> None:
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
    elif plain is not None:
        typer.echo(plain)
    else:
        for key, value in values.items():
            typer.echo(f"{key}: {value}")


def _terminate(signum: int, frame: object) -> NoReturn:
    del frame
    raise SystemExit(128 + signum)


def main() -> None:
    """Entry point: errors of this package end in one sentence and their exit code."""
    # As an exception, a request to stop passes through every `with` and leaves a sound folder.
    signal.signal(signal.SIGTERM, _terminate)
    # What Transformers will rename one day is nothing that a user can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    if not sys.stderr.isatty():
        # Transformers draws bars of its own, outside a terminal too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except MllmMsrError as error:
        typer.echo(f"mllm-msr: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("mllm-msr: interrupted; the same command goes on from here", err=True)
        raise SystemExit(130) from None
