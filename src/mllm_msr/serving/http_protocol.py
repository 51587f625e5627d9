"""HTTP protocol of the server, with limits on connections whose request has not arrived yet.

A client that sends its request slowly, or only half of it, must not keep others from being served.
Its connection is closed after a timeout, and at once if the server needs its place for a new
connection. Connections whose request is being answered are never closed: if there are no others,
the request of the new connection gets 503.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_BODY: Final = b'{"detail": "The request did not arrive completely in time. Send it again."}'
_TIMEOUT_RESPONSE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def limited_protocol(
    *, request_timeout: float, max_connections: int
) -> Callable[..., asyncio.Protocol]:
    """Return a factory of protocols for `uvicorn.Config`.

    Args:
        request_timeout: Seconds within which a request must arrive completely.
        max_connections: Number of connections from which on a new one replaces the one that has
            been waiting longest for a request.
    """
    return functools.partial(
        LimitedProtocol, request_timeout=request_timeout, max_connections=max_connections
    )


class LimitedProtocol(H11Protocol):
    """Protocol of one connection.

    Args:
        config: Configuration of the server.
        server_state: State of the server, with all connections.
        app_state: State of the application.
        _loop: Event loop, by default the running one.
        request_timeout: As for `limited_protocol`.
        max_connections: As for `limited_protocol`.

    Attributes:
        waiting_since: Time of the event loop since which a request is expected.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        request_timeout: float,
        max_connections: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._timer: asyncio.TimerHandle | None = None
        self._is_idle = True  # nothing has arrived since the last response
        self.waiting_since = 0.0

    @property
    def is_waiting(self) -> bool:
        """Return whether the next request has not arrived completely."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout, and make room by closing another connection."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self._max_connections:
            others = [
                one
                for one in self.connections
                if isinstance(one, LimitedProtocol) and one is not self and one.is_waiting
            ]
            if others:
                oldest = min(others, key=lambda one: one.waiting_since)
                self.connections.discard(oldest)
                oldest.transport.abort()
            else:
                self.limit_concurrency = 0  # uvicorn answers with 503

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Restart the timeout with the first part of a request, stop it with the last one."""
        if self._is_idle:
            self._is_idle = False
            self._wait()
        super().data_received(data)
        if not self.is_waiting:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request."""
        super().on_response_complete()  # starts the next request if it has arrived already
        self._is_idle = True
        if self.is_waiting:
            self._wait()

    def _wait(self) -> None:
        self._stop_timer()
        self.waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self._request_timeout, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        """Close the connection, after a response if the client has sent a part of a request."""
        cycle = self.cycle
        if not self._is_idle and (cycle is None or not cycle.response_started):
            self.transport.write(_TIMEOUT_RESPONSE)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
        # A client that does not read keeps the connection open.
        self.loop.call_later(1.0, self.transport.abort)
