"""`serve`: start an HTTP service with a web page for a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import Overrides, PortOption, RunOption, settings_help
from mllm_msr.cli._serve import require_serving, serve_run


@register("serve", "Serve a run over HTTP, with a web page", cls=settings_help("retrieve", "serve"))
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on; all but loopback addresses require MLLM_MSR_API_KEYS.",
        ),
    ] = "127.0.0.1",
    port: PortOption = 8000,
) -> None:
    """Serve a run over HTTP, with a web page, until stopped.

    The service recommends items, accepts events and returns preferences.
    """
    require_serving()
    serve_run(run, host=host, port=port, overrides=settings or ())
