"""`serve`: a finished run behind HTTP, with its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.options import RunOption
from mllm_msr.errors import MissingExtraError

PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")]


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
    port: PortOption = 8000,
) -> None:
    """Serve recommendations, events, preferences and a page over HTTP until asked to stop."""
    require_serving()
    serve_run(run, host=host, port=port, overrides=settings or ())


def require_serving() -> None:
    """Refuse at once where the extra `serve` is missing.

    Raises:
        MissingExtraError: One of its packages is not installed.
    """
    try:
        import fastapi
        import sqlalchemy
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    del fastapi, sqlalchemy, uvicorn


def serve_run(run: Path, *, host: str, port: int, overrides: Sequence[str]) -> None:
    """Serve a run and say where, until the process is asked to stop.

    Args:
        run: A finished run folder.
        host: Address to listen on.
        port: Port, 0 for any free one.
        overrides: Settings as `key=value`.
    """
    from mllm_msr.serving.server import serve

    def announce(url: str) -> None:
        typer.echo(f"serving {run} on {url}", err=True)

    serve(run, host=host, port=port, overrides=overrides, announce=announce)
