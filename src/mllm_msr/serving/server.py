"""From a run folder to a server that listens."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from mllm_msr.errors import UsageError
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.app import create_app
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.security import Keys, check_address
from mllm_msr.serving.state import ServiceState
from mllm_msr.storage import layout

_CONNECTIONS = 512


def make_app(
    run: Path, *, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> FastAPI:
    """The application of a run folder.

    The run folder is only read, but for the folder `service` in it: the database, unless
    `serve.state` names another one, and images of new items.

    Args:
        run: A run that has been inferred, and trained unless its settings say otherwise.
        overrides: Settings as `key=value`.
        environment: Where the keys are read from; the process's own by default.

    Raises:
        RunFolderError: A stage that is needed has not been done.
        RunLockedError: Another service works on the database.
        SettingsError: A setting is wrong.
    """
    keys = Keys.from_environment(os.environ if environment is None else environment)
    model = MllmMsr.from_run(run, overrides=overrides)
    settings = model.settings.serve
    folder = run.absolute() / layout.SERVICE
    state = ServiceState(settings.state or f"sqlite:///{folder / 'state.sqlite'}")
    metrics = Metrics()

    def make_engine() -> OnlineEngine:
        return OnlineEngine(
            model, state, settings=settings, images=folder / layout.IMAGES, metrics=metrics
        )

    app = create_app(make_engine, keys=keys, metrics=metrics, max_body=settings.max_body)
    app.state.shutdown_timeout = settings.shutdown_timeout
    return app


def serve(
    run: Path,
    *,
    host: str,
    port: int,
    overrides: Sequence[str] = (),
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a run until the process is asked to stop; requests at work are finished first.

    Args:
        run: As for `make_app`.
        host: Address to listen on; beyond loopback only with an API key.
        port: Port, 0 for any free one.
        overrides: As for `make_app`.
        announce: Told the service's URL once the port is bound.

    Raises:
        UsageError: The address is refused, or taken.
        RunFolderError: As for `make_app`.
    """
    check_address(host, Keys.from_environment(os.environ))
    app = make_app(run, overrides=overrides)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=math.ceil(app.state.shutdown_timeout),
    )
    try:
        bound = config.bind_socket()
    except SystemExit as error:
        raise UsageError(
            needed="a free address to listen on",
            received=f"{host}:{port}, which is taken or not this machine's",
            remedy="choose another --port",
        ) from error
    with bound:
        # An answer is written in two pieces, and asyncio sets this only on sockets that it has
        # opened itself: the second piece would wait 40 ms for the client's acknowledgement.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        announce(f"http://{host}:{bound.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[bound])
