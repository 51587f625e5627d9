"""Commands that run one stage of the pipeline and print its counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_msr.cli._app import app
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

if TYPE_CHECKING:
    from mllm_msr.pipeline.pipeline import Pipeline


def add_stage_command(
    name: str,
    summary: str,
    *,
    sections: tuple[str, ...],
    describe: Callable[[Pipeline], str] | None = None,
) -> None:
    """Register a command that runs one stage of the pipeline.

    Args:
        name: Name of the stage and of the command.
        summary: Help text of the command.
        sections: Sections of the settings that the help lists.
        describe: Returns the text to print instead of the counts.
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
        overrides = with_executor(settings, executor)
        with open_pipeline(
            run, preset, config, overrides, force=force, creates=name == "prepare"
        ) as pipeline:
            pipeline.run_stage(name)
            counts = pipeline.counts(name)
            plain = None if as_json or describe is None else describe(pipeline)
        emit(counts, as_json=as_json, plain=plain)

    app.command(name, cls=settings_help(*sections), help=summary)(command)
