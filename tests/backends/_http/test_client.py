"""One endpoint's faults, one by one, from a server that commits them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from clocks import FakeClock
from endpoints import Asked, Reply, Respond, refused, said, serve
from mllm_msr.backends._http.client import Endpoint, MalformedError, RefusedError, UnansweredError
from mllm_msr.errors import BackendError

SECRET = "sk-never-shown"


def ask(
    url: str, clock: FakeClock, *, read: Callable[[dict[str, Any]], Any] = dict, **more: Any
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
            return await endpoint.ask("chat/completions", {"a": 1}, read)
        finally:
            await endpoint.close()

    return asyncio.run(work())


def first(*replies: Reply) -> Respond:
    """These replies in their order, the last one again and again."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    "fault",
    [
        refused("slow down", 429),
        refused("broken", 500),
        Reply(b"<html>Bad gateway</html>", status=502),
        Reply(said("yes").body, cut=10),
        Reply(b'{"choices": [{"mess'),
        Reply(b'{"choices": []}'),
    ],
    ids=["429", "500", "502", "cut connection", "truncated JSON", "no choices"],
)
def test_what_may_pass_is_asked_again(fault: Reply) -> None:
    def read(reply: dict[str, Any]) -> str:
        if not reply.get("choices"):
            raise MalformedError("no choices")
        return str(reply["choices"][0]["message"]["content"])

    clock = FakeClock()
    with serve(first(fault, fault, said("yes"))) as server:
        assert ask(server.url, clock, read=read) == "yes"
    assert len(server.history) == 3
    assert clock.slept == [0.25, 0.5]


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    clock = FakeClock()
    reply = Reply({"error": "later"}, status=429, headers={"Retry-After": "7"})
    with serve(first(reply, said("yes"))) as server:
        ask(server.url, clock)
    assert clock.slept == [7.0]


def test_a_wait_beyond_the_budget_is_not_waited_for() -> None:
    clock = FakeClock()
    reply = Reply({"error": "tomorrow"}, status=429, headers={"Retry-After": "86400"})
    with (
        serve(first(reply)) as server,
        pytest.raises(UnansweredError, match=r"429: tomorrow \(attempt 1 was the last\)"),
    ):
        ask(server.url, clock)
    assert clock.slept == []


def test_attempts_are_bounded() -> None:
    with serve(first(refused("broken", 500))) as server:
        with pytest.raises(UnansweredError, match=r"500: broken \(attempt 4 was the last\)"):
            ask(server.url, FakeClock())
        assert len(server.history) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_asked_once(status: int) -> None:
    with serve(first(refused("no", status))) as server:
        with pytest.raises(RefusedError, match=f"answers {status}: no"):
            ask(server.url, FakeClock())
        assert len(server.history) == 1


def test_an_empty_account_is_no_rate_limit() -> None:
    reply = Reply({"error": {"message": "no credit", "code": "insufficient_quota"}}, status=429)
    with serve(first(reply)) as server:
        with pytest.raises(RefusedError, match="no credit"):
            ask(server.url, FakeClock())
        assert len(server.history) == 1


def test_a_slow_server_is_left_after_the_timeout() -> None:
    with (
        serve(first(Reply(said("late").body, delay=1.0))) as server,
        pytest.raises(UnansweredError, match=r"no answer after 0\.1 seconds"),
    ):
        ask(server.url, FakeClock(), timeout=0.1, attempts=2)


def test_a_dead_server_ends_the_work_when_total_timeout_is_used_up() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(BackendError, match=r"failures alone for 6\d seconds \(ConnectError"):
        ask(url, FakeClock(chance=0.0), attempts=1000)


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", SECRET)
    echo: Respond = lambda asked: refused(f"wrong key {asked.headers['Authorization']}", 401)  # noqa: E731
    with serve(echo) as server, pytest.raises(RefusedError) as caught:
        ask(server.url, FakeClock())
    assert server.history[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(caught.value)
    assert "[key]" in str(caught.value)


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    with serve(first(said("yes"))) as server:
        ask(server.url, FakeClock())
    assert "Authorization" not in server.history[0].headers


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://me:pw@host/v1", ""])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(BackendError, match="needed an http or https address") as caught:
        ask(url, FakeClock())
    assert "pw@" not in str(caught.value)


def test_the_body_arrives_as_it_was_given() -> None:
    def mirror(asked: Asked) -> Reply:
        return Reply({"got": asked.body, "path": asked.path})

    with serve(mirror) as server:
        assert ask(server.url, FakeClock()) == {"got": {"a": 1}, "path": "/v1/chat/completions"}
