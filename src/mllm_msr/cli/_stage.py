"""Commands that run one stage of the pipeline and print what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ConfigOption,
    ExecutorOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    settings_help,
    with_executor,
)
from mllm_msr.cli._output import emit
from mllm_msr.cli._stage_text import stage_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.pipeline.pipeline import Pipeline


def add_stage_command(
    name: str,
    summary: str,
    *,
    sections: tuple[str, ...],
    help: str | None = None,  # noqa: A002 - the name in Typer
    describe: Callable[[Pipeline, str], RenderableType] | None = None,
    fixed: tuple[str, ...] = (),
) -> None:
    """Register a command that runs one stage of the pipeline.

    Args:
        name: Name of the stage and of the command.
        summary: What the stage does, for the list of commands.
        sections: Groups of settings that it reads.
        help: Help text of the command; by default the summary.
        describe: Returns the text to print; by default sentences about the counts.
        fixed: Settings that the command sets itself.
    """

    def command(
        settings: Overrides = None,
        run: RunOption = Path("runs/run"),
        preset: PresetOption = None,
        config: ConfigOption = None,
        executor: ExecutorOption = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        overrides = [*(with_executor(settings, executor) or ()), *fixed]
        with open_pipeline(
            run, preset, config, overrides, force=force, creates=name == "prepare"
        ) as pipeline:
            pipeline.run_stage(name)
            counts = pipeline.counts(name)
            plain = "" if as_json else (describe or stage_text)(pipeline, name)
        emit(counts, as_json=as_json, plain=plain)

    text = f"{help or summary}."
    register(name, summary, cls=settings_help(*sections), help=text)(command)
