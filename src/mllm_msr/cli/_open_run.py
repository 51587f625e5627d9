"""Opening of run folders with the settings from the command line, progress and `run.log`."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_msr.cli._logging import is_quiet, log_to
from mllm_msr.cli._progress import ProgressReporter

if TYPE_CHECKING:
    from mllm_msr.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_pipeline(
    run: Path,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    *,
    force: bool,
    creates: bool = False,
) -> Iterator[Pipeline]:
    """Open a run folder with its saved settings or a preset, changed by a file and overrides.

    A new run on the user's own files whose settings name no model gets one (`choose_model`).

    Args:
        run: The run folder.
        preset: Preset to start from. None selects the `config.yaml` of the folder if there is
            one, else the preset `default`.
        config: A YAML file with settings; takes precedence over the preset and the folder.
        overrides: Settings as `key=value`; take precedence over all files.
        force: Run stages again even if they are finished, also with other settings.
        creates: Create the folder if it does not exist and the settings name a dataset.

    Raises:
        SettingsError: A setting is wrong.
        UnknownNameError: The preset does not exist.
        RunFolderError: There is no such run; nothing is created.
        DamagedFileError: The saved settings are damaged.
        RunLockedError: Another process uses the folder.
    """
    from mllm_msr.pipeline.model_choice import load_with_model
    from mllm_msr.pipeline.pipeline import Pipeline
    from mllm_msr.storage.layout import LOG

    settings, message = load_with_model(
        run, overrides or (), preset=preset, file=config, creates=creates
    )
    with (
        ProgressReporter(bars=sys.stderr.isatty() and not is_quiet()) as progress,
        Pipeline.open(run, settings, force=force, progress=progress) as pipeline,
        contextlib.nullcontext() if pipeline.run.is_worker else log_to(run / LOG),
    ):
        if message and not pipeline.run.is_worker:
            logger.warning("%s", message)
        yield pipeline
