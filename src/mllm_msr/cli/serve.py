"""`serve`: a finished run behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.options import RunOption
from mllm_msr.errors import MissingExtraError


@app.command("serve")
def _serve(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for instance serve.update=event"),
    ] = None,
    run: RunOption = Path("runs/run"),
    host: Annotated[
        str, typer.Option(help="Address; beyond this machine only with MLLM_MSR_API_KEYS set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = 8000,
) -> None:
    """Serve recommendations, events and preferences over HTTP until asked to stop."""
    try:
        import fastapi
        import sqlalchemy
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    del fastapi, sqlalchemy, uvicorn
    from mllm_msr.serving.running import serve

    def announce(url: str) -> None:
        typer.echo(f"serving {run} on {url}", err=True)

    serve(run, host=host, port=port, overrides=settings or (), announce=announce)
