"""Start of the HTTP service, for `serve` and `demo --serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from mllm_msr.cli._app import Stopped
from mllm_msr.errors import MissingExtraError


def require_serving() -> None:
    """Check that the packages of the extra `serve` are installed.

    Raises:
        MissingExtraError: A package is not installed.
    """
    try:
        import fastapi
        import sqlalchemy
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    del fastapi, sqlalchemy, uvicorn


def serve_run(run: Path, *, host: str, port: int, overrides: Sequence[str]) -> None:
    """Serve a run over HTTP until the process is stopped, and print the URL to stderr.

    Args:
        run: A finished run folder.
        host: Address to listen on.
        port: Port to listen on; 0 selects a free one.
        overrides: Settings as `key=value`.

    Raises:
        Stopped: A signal has stopped the process, which is how a service ends.
    """
    from mllm_msr.serving.server import serve

    def announce(line: str) -> None:
        typer.echo(line, err=True)

    try:
        serve(run, host=host, port=port, overrides=overrides, announce=announce)
    except Stopped as stopped:
        stopped.is_finished = True
        raise
