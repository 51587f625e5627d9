"""A run folder opened as the options say, with progress bars."""

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
    """Open a run folder under its settings: those it has, or a preset's, and what is asked now.

    A settings file comes on top of either.
    """
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.pipeline import Pipeline

    kept = run / "config.yaml"
    if preset is None and kept.is_file():
        files = [kept] if config is None else [kept, config]
        settings = load_settings(None, overrides or (), file=files)
    else:
        settings = load_settings(preset or "default", overrides or (), file=config)
    with Pipeline.open(run, settings, force=force, progress=Bars()) as pipeline:
        yield pipeline


class Bars:
    """Progress bars on stderr with rate and remaining time; silent when it is no terminal."""

    @contextlib.contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A bar for the time of the `with` block."""
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
