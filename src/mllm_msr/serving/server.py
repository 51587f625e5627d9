"""HTTP server of a run folder: build the application and listen on a socket."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllm_msr.config import tracing
from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import UsageError
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.app import create_app
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.http_protocol import limited_protocol
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.security import ApiKeys, check_address
from mllm_msr.serving.state import ServiceState
from mllm_msr.storage import layout

_MAX_CONNECTIONS: Final = 512


def prepare_engine(
    run: Path, *, overrides: Sequence[str] = (), metrics: Metrics
) -> tuple[ServeSettings, str, Callable[[], OnlineEngine]]:
    """Load a run and open the service's database.

    Args:
        run: As for `make_app`.
        overrides: As for `make_app`.
        metrics: Receives the counts of the engine.

    Returns:
        The section `serve`; a sentence about the lists; and a function that makes the engine once,
        in an event loop. It closes the database if this fails.

    Raises:
        RunFolderError: As for `make_app`.
        RunLockedError: As for `make_app`.
        SettingsError: As for `make_app`.
    """
    model = MllmMsr.from_run(run, overrides=overrides)
    settings = model.settings.serve
    folder = run.absolute() / layout.SERVICE
    state = ServiceState(folder / "state.sqlite" if settings.state is None else settings.state)

    def make_engine() -> OnlineEngine:
        try:
            return OnlineEngine(
                model, state, settings=settings, images=folder / layout.IMAGES, metrics=metrics
            )
        except BaseException:
            state.close()
            raise

    return settings, str(model.plan), make_engine


def make_app(
    run: Path, *, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> FastAPI:
    """Build the application of a run folder.

    The run folder is only read, except for its cache and its folder `service`, which contains the
    database (unless `serve.state` is set) and the images of new items.

    Args:
        run: A run whose preferences have been inferred, and that has been fine-tuned unless its
            settings disable training.
        overrides: Settings as `key=value`.
        environment: Environment variables with the API keys; by default those of the process.

    Raises:
        RunFolderError: A required stage has not been run.
        RunLockedError: Another service uses the database.
        SettingsError: A setting is invalid.
    """
    keys = ApiKeys.from_environment(os.environ if environment is None else environment)
    metrics = Metrics()
    settings, lists, make_engine = prepare_engine(run, overrides=overrides, metrics=metrics)
    app = create_app(
        make_engine,
        run=run,
        keys=keys,
        metrics=metrics,
        max_body=settings.max_body,
        max_item_body=settings.max_item_body,
    )
    app.state.settings, app.state.lists = settings, lists
    tracing.instrument(app)
    return app


def serve(
    run: Path,
    *,
    host: str,
    port: int,
    overrides: Sequence[str] = (),
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a run until the process is terminated; running requests are finished first.

    Args:
        run: As for `make_app`.
        host: Address to listen on; addresses other than loopback require an API key.
        port: Port; 0 for any free port.
        overrides: As for `make_app`.
        announce: Called with a line that has the URL, and one about the lists, once it listens.

    Raises:
        UsageError: The address is not allowed, or in use.
        RunFolderError: As for `make_app`.
        BackendError: The model cannot be opened.
    """
    check_address(host, ApiKeys.from_environment(os.environ))
    app = make_app(run, overrides=overrides)
    settings: ServeSettings = app.state.settings
    guarded = _StartupGuard(app)
    config = uvicorn.Config(
        guarded,
        host=host,
        port=port,
        http=cast(
            "type[asyncio.Protocol]",
            limited_protocol(
                request_timeout=settings.request_timeout, max_connections=_MAX_CONNECTIONS
            ),
        ),
        ws="none",
        log_level="error",  # warnings concern single requests of clients
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout),
    )
    try:
        bound = config.bind_socket()
    except SystemExit as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: the address is in use or does not belong to this "
            "machine. Choose another --port or --host."
        ) from error
    with bound:
        # Responses are sent in two parts; without this option, the second part waits up to 40 ms
        # for the client's acknowledgment. asyncio sets it only on sockets that it has opened.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        announce(f"serving {run} on http://{host}:{bound.getsockname()[1]} (Ctrl+C stops it)")
        announce(app.state.lists)
        guarded.server = uvicorn.Server(config)
        guarded.server.run(sockets=[bound])
    if guarded.error is not None:
        raise guarded.error


class _StartupGuard:
    """ASGI application that keeps the error of a failed start, which uvicorn would only log.

    Attributes:
        server: Server to stop after a failed start.
        error: Error of the start or shutdown.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.server: uvicorn.Server | None = None
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or start and stop the application."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_result(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.server is not None:
                self.server.should_exit = True
                message = {"type": "lifespan.startup.complete"}
            await send(message)

        try:
            await self._app(scope, receive, send_result)
        except Exception as error:  # noqa: BLE001 - raised again when the server has stopped
            self.error = error
