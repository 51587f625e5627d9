"""`demo`: run the pipeline on generated data with the demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ForceOption,
    JsonOption,
    Overrides,
    RunOption,
    settings_help,
)
from mllm_msr.cli._results import emit_results
from mllm_msr.cli._serve import require_serving, serve_run
from mllm_msr.errors import UsageError, require_extra


@register("demo", "Run everything on generated data, in minutes", cls=settings_help(preset="demo"))
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/demo"),
    force: ForceOption = False,
    as_json: JsonOption = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the finished run with its page on this machine.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=65535, help="Port for --serve; default: 8000."),
    ] = None,
) -> None:
    """Run the pipeline on generated data with the demo model."""
    if port is not None and not serve:
        raise UsageError(f"--port {port} is given, but nothing is served. Add --serve.")
    require_extra("train")
    if serve:
        require_serving()
    with open_pipeline(run, "demo", None, settings, force=force, creates=True) as pipeline:
        pipeline.run_all()
        emit_results(pipeline, as_json=as_json, is_served=serve)
    if serve:
        # With an update after every event, a single like visibly changes the preference.
        serve_run(
            run,
            host="127.0.0.1",
            port=8000 if port is None else port,
            overrides=["serve.update=event"],
        )
