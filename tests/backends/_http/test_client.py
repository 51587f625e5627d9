"""Tests of the endpoint client: retries, budgets, rejections, API keys."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from clocks import FakeClock
from endpoints import (
    HttpRequest,
    HttpResponse,
    RequestHandler,
    completion_response,
    error_response,
    serve,
)
from mllm_msr.backends._http.client import Endpoint, RetriesExhaustedError
from mllm_msr.backends._http.responses import MalformedResponseError, RequestRejectedError
from mllm_msr.errors import BackendError

SECRET = "sk-never-shown"


def send(
    url: str, clock: FakeClock, *, parse: Callable[[dict[str, Any]], Any] = dict, **more: Any
) -> Any:
    options: dict[str, Any] = {
        "concurrency": 4,
        "timeout": 5.0,
        "attempts": 4,
        "total_timeout": 60.0,
    }

    async def work() -> Any:
        endpoint = Endpoint(url, key_variable="TEST_KEY", timing=clock.timing, **(options | more))
        try:
            return await endpoint.request("chat/completions", {"a": 1}, parse)
        finally:
            await endpoint.close()

    return asyncio.run(work())


def in_order(*responses: HttpResponse) -> RequestHandler:
    """Return these responses in order, repeating the last one."""
    left = list(responses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    "failure",
    [
        error_response("slow down", 429),
        error_response("broken", 500),
        HttpResponse(b"<html>Bad gateway</html>", status=502),
        HttpResponse(completion_response("yes").body, cut=10),
        HttpResponse(b'{"choices": [{"mess'),
        HttpResponse(b'{"choices": []}'),
    ],
    ids=["429", "500", "502", "cut connection", "truncated JSON", "no choices"],
)
def test_transient_failures_are_retried(failure: HttpResponse) -> None:
    def parse(response: dict[str, Any]) -> str:
        if not response.get("choices"):
            raise MalformedResponseError("no choices")
        return str(response["choices"][0]["message"]["content"])

    clock = FakeClock()
    with serve(in_order(failure, failure, completion_response("yes"))) as server:
        assert send(server.url, clock, parse=parse) == "yes"
    assert len(server.history) == 3
    assert clock.slept == [0.25, 0.5]


def test_retry_after_is_respected() -> None:
    clock = FakeClock()
    response = HttpResponse({"error": "later"}, status=429, headers={"Retry-After": "7"})
    with serve(in_order(response, completion_response("yes"))) as server:
        send(server.url, clock)
    assert clock.slept == [7.0]


def test_a_wait_beyond_the_budget_ends_the_retries() -> None:
    clock = FakeClock()
    response = HttpResponse({"error": "tomorrow"}, status=429, headers={"Retry-After": "86400"})
    with (
        serve(in_order(response)) as server,
        pytest.raises(
            RetriesExhaustedError, match=r"status 429: tomorrow \(gave up after attempt 1 of 4\)"
        ),
    ):
        send(server.url, clock)
    assert clock.slept == []


def test_the_number_of_attempts_is_limited() -> None:
    with serve(in_order(error_response("broken", 500))) as server:
        with pytest.raises(
            RetriesExhaustedError, match=r"status 500: broken \(gave up after attempt 4 of 4\)"
        ):
            send(server.url, FakeClock())
        assert len(server.history) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_permanent_failures_are_not_retried(status: int) -> None:
    with serve(in_order(error_response("no", status))) as server:
        with pytest.raises(RequestRejectedError, match=f"returned status {status}: no"):
            send(server.url, FakeClock())
        assert len(server.history) == 1


def test_an_empty_account_is_not_retried() -> None:
    response = HttpResponse(
        {"error": {"message": "no credit", "code": "insufficient_quota"}}, status=429
    )
    with serve(in_order(response)) as server:
        with pytest.raises(RequestRejectedError, match="no credit"):
            send(server.url, FakeClock())
        assert len(server.history) == 1


def test_a_slow_server_times_out() -> None:
    with (
        serve(in_order(HttpResponse(completion_response("late").body, delay=1.0))) as server,
        pytest.raises(RetriesExhaustedError, match=r"No response within 0\.1 seconds"),
    ):
        send(server.url, FakeClock(), timeout=0.1, attempts=2)


def test_an_unreachable_server_raises_an_error_after_total_timeout() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(BackendError, match=r"has failed for 6\d seconds: ConnectError"):
        send(url, FakeClock(random=0.0), attempts=1000)


def test_the_key_is_sent_and_redacted_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", SECRET)

    def show_key(request: HttpRequest) -> HttpResponse:
        return error_response(f"wrong key {request.headers['Authorization']}", 401)

    with serve(show_key) as server, pytest.raises(RequestRejectedError) as caught:
        send(server.url, FakeClock())
    assert server.history[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(caught.value)
    assert "[key]" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "written"),
    [("sk-1/2+3", r"sk\u002d1\/2\u002B3"), ('sk-"1"', r"sk-\"1\""), ("sk-\\1", r"sk-\\1")],
)
def test_a_key_behind_json_escapes_is_redacted(
    monkeypatch: pytest.MonkeyPatch, key: str, written: str
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    body = b'{"error": {"message": "wrong key %s \\ud800", "code": 400}}' % written.encode()
    for status in (200, 400):
        with serve(lambda _: HttpResponse(body, status=status)) as server:  # noqa: B023
            with pytest.raises(RequestRejectedError, match=r"wrong key \[key\] \?") as caught:
                send(server.url, FakeClock())
            assert key not in str(caught.value)


def test_no_authorization_header_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    with serve(in_order(completion_response("yes"))) as server:
        send(server.url, FakeClock())
    assert "Authorization" not in server.history[0].headers


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://me:pw@host/v1", ""])
def test_invalid_addresses_raise_an_error(url: str) -> None:
    with pytest.raises(BackendError, match="is not a valid endpoint address") as caught:
        send(url, FakeClock())
    assert "pw@" not in str(caught.value)


def test_the_body_is_sent_as_json() -> None:
    def mirror(request: HttpRequest) -> HttpResponse:
        return HttpResponse({"got": request.body, "path": request.path})

    with serve(mirror) as server:
        assert send(server.url, FakeClock()) == {"got": {"a": 1}, "path": "/v1/chat/completions"}
