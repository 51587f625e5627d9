"""`check`: show what is understood of a dataset's files, without a run."""

from __future__ import annotations

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import (
    ConfigOption,
    JsonOption,
    Overrides,
    PresetOption,
    settings_help,
)
from mllm_msr.cli._output import emit


@register(
    "check", "Check the files of a dataset, without a run", cls=settings_help("", "data", "images")
)
def command(
    settings: Overrides = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the files of a dataset, in seconds and without a run folder.

    Prints what is understood: files, columns, times, ids, images, and what filtering leaves. The
    exit code is 1 if a run on these files cannot work.
    """
    from mllm_msr.config.checks import image_readers
    from mllm_msr.config.loading import load_settings, merge_sources
    from mllm_msr.data.source_text import format_report
    from mllm_msr.pipeline.model_choice import choose_model
    from mllm_msr.pipeline.stages import prepare

    preset = preset or "default"
    given, _ = merge_sources(preset, settings or (), file=config)
    # The model of a run decides whether missing images are a problem.
    chosen, _ = choose_model(given)
    checked = load_settings(chosen or preset, settings or (), file=config)
    report = prepare.check(
        prepare.load(checked.dataset, checked.data),
        checked.data,
        block_size=checked.infer.block_size,
        images=checked.images,
        reads_images=bool(image_readers(checked)),
    ).to_dict()
    emit(report, as_json=as_json, plain=format_report(report))
    if report["problems"]:
        raise typer.Exit(1)
