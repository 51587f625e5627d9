"""Tests with a real server: slow, incomplete and numerous connections do not block others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx2
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from mllm_msr.serving.http_protocol import limited_protocol

Connect = Callable[[bytes], socket.socket]

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"


class Application:
    """Returns the size of the body; waits on the path `/slow` until it is released."""

    def __init__(self) -> None:
        self.n_disconnected = 0
        self.n_slow = 0
        self.release = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.n_disconnected += 1
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/slow":
            self.n_slow += 1
            while not self.release.is_set():
                await asyncio.sleep(0.01)
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def port(application: Application) -> Iterator[int]:
    """Run a server with a timeout of half a second and at most 20 connections."""
    protocol = limited_protocol(request_timeout=0.5, max_connections=20)
    config = uvicorn.Config(
        application, port=0, http=protocol, lifespan="off", log_level="error", timeout_keep_alive=30
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    application.release.set()
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
    """Return a function that opens a connection and sends bytes."""
    with ExitStack() as opened:

        def make(content: bytes) -> socket.socket:
            made = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            made.sendall(content)
            return made

        yield make


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            content += part
    return content


@pytest.mark.parametrize(
    "content", [b"GET / HTTP/1.1\r\nHost: lo", HEAD, HEAD + b"x" * 999], ids=["head", "body", "end"]
)
def test_incomplete_request_is_closed_with_an_explanation(connect: Connect, content: bytes) -> None:
    started = time.monotonic()
    answer = read_all(connect(content))
    assert 0.4 < time.monotonic() - started < 10
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert b"Send it again" in body


def test_connection_without_a_request_is_closed(connect: Connect) -> None:
    assert read_all(connect(b"")) == b""


def test_slowly_sent_request_does_not_extend_the_timeout(connect: Connect) -> None:
    connection = connect(b"GET / HTTP/1.1\r\n")
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for n in range(200):
            connection.sendall(f"X-{n}: 1\r\n".encode())
            time.sleep(0.05)
    assert time.monotonic() - started < 5


def test_each_request_of_a_connection_has_the_whole_timeout(port: int) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for n in range(4):
            assert client.post("/", content=b"x" * n).text == str(n)
            time.sleep(0.2)


def test_answering_may_take_longer_than_receiving(
    connect: Connect, application: Application
) -> None:
    connection = connect(HEAD.replace(b" / ", b" /slow ") + b"x" * 1000)
    time.sleep(0.8)
    application.release.set()
    assert b"200 OK" in connection.recv(4096)


@pytest.mark.parametrize("content", [b"", b"GET / HTTP/1.1\r\nHost: lo", HEAD + b"x"])
def test_many_incomplete_requests_do_not_keep_others_from_being_served(
    connect: Connect, port: int, content: bytes
) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        started = time.monotonic()
        connections = [connect(content) for _ in range(60)]
        for n in range(5):
            assert client.post("/", content=b"x" * n).text == str(n)
        assert time.monotonic() - started < 0.5  # without waiting for the timeout
    assert read_all(connections[0]) == b""  # the oldest was closed without a response


def test_requests_that_are_being_answered_are_not_closed(
    connect: Connect, port: int, application: Application
) -> None:
    slow = HEAD.replace(b" / ", b" /slow ") + b"x" * 1000
    busy = [connect(slow) for _ in range(20)]
    while application.n_slow < 20:
        time.sleep(0.01)
    assert httpx2.get(f"http://127.0.0.1:{port}/").status_code == 503
    application.release.set()
    assert all(b"200 OK" in one.recv(4096) for one in busy)
    assert application.n_disconnected == 0
