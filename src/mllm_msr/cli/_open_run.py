"""Opening of run folders with the settings from the command line, and progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mllm_msr.pipeline.pipeline import Pipeline


@contextlib.contextmanager
def open_pipeline(
    run: Path,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    *,
    force: bool,
) -> Iterator[Pipeline]:
    """Open a run folder with its saved settings or a preset, changed by a file and overrides.

    Args:
        run: The run folder; created if it does not exist.
        preset: Preset to start from. None selects the `config.yaml` of the folder if there is
            one, else the preset `default`.
        config: A YAML file with settings; takes precedence over the preset and the folder.
        overrides: Settings as `key=value`; take precedence over all files.
        force: Run stages again even if they are finished, also with other settings.

    Raises:
        SettingsError: A setting is wrong.
        UnknownNameError: The preset does not exist.
        RunLockedError: Another process uses the folder.
    """
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.pipeline import Pipeline
    from mllm_msr.storage.layout import CONFIG

    saved = run / CONFIG
    if preset is None and saved.is_file():
        files = [saved] if config is None else [saved, config]
        settings = load_settings(None, overrides or (), file=files)
    else:
        settings = load_settings(preset or "default", overrides or (), file=config)
    with Pipeline.open(run, settings, force=force, progress=show_progress) as pipeline:
        yield pipeline


@contextlib.contextmanager
def show_progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with speed and remaining time on stderr if it is a terminal.

    Args:
        name: Name of the task.
        total: Number of steps; None if unknown.

    Yields:
        Function to call with the number of steps that have finished since the last call.
    """
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
