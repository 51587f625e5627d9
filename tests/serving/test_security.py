"""Tests for API keys, addresses, host names, request sizes and security headers."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from mllm_msr.errors import UsageError
from mllm_msr.serving.security import ApiKeys, SecurityMiddleware, check_address


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client(*keys: str, base_url: str = "http://localhost") -> TestClient:
    routes = [
        Route(path, echo, methods=["GET", "POST"])
        for path in ("/", "/healthz", "/v1/users", "/v1/items")
    ]
    app = SecurityMiddleware(
        Starlette(routes=routes),
        keys=ApiKeys(keys),
        max_body=1000,
        max_bodies=3000,
        exceptions={"/v1/items": 2000},
    )
    return TestClient(app, base_url=base_url)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_requires_no_key(host: str) -> None:
    check_address(host, ApiKeys())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "127.0.0.1.nip"])
def test_other_addresses_require_a_key(host: str) -> None:
    with pytest.raises(UsageError, match=r"requires an API key.*MLLM_MSR_API_KEYS.*omit --host"):
        check_address(host, ApiKeys())
    check_address(host, ApiKeys(["secret"]))


def test_keys_are_read_from_the_environment_without_blank_ones() -> None:
    keys = ApiKeys.from_environment({"MLLM_MSR_API_KEYS": " one, ,two,"})
    assert [keys.accepts(key) for key in ("one", "two", "", " one", None)] == [True] * 2 + [
        False
    ] * 3
    assert not ApiKeys.from_environment({"MLLM_MSR_API_KEYS": " , "})


def test_all_paths_but_probes_and_page_files_require_the_key() -> None:
    with client("secret", base_url="http://shop.example") as web:
        assert web.get("/healthz").status_code == 200
        assert web.get("/").status_code == 200  # the page, which asks for the key
        rejected = web.get("/v1/users", headers={"X-API-Key": "guess"})
        assert (rejected.status_code, "X-API-Key" in rejected.json()["detail"]) == (401, True)
        assert web.get("/v1/users", headers={"X-API-Key": "secret"}).status_code == 200
        assert web.get("/v1/users", headers={"X-API-Key": b"s\xe9cret"}).status_code == 401


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("", 421),
    ],
)
def test_without_a_key_only_loopback_host_names_are_accepted(name: str, status: int) -> None:
    with client() as web:
        assert web.get("/", headers={"Host": name}).status_code == status


def test_large_bodies_are_rejected_with_and_without_content_length() -> None:
    with client() as web:
        assert web.post("/", content=b"x" * 1000).text == "1000"
        announced = web.post("/", content=b"x" * 1001)
        in_pieces = web.post("/", content=iter([b"x" * 600, b"x" * 600]))
        broken = web.post("/", content=b"x", headers={"Content-Length": "many"})
    assert (announced.status_code, in_pieces.status_code, broken.status_code) == (413, 413, 400)
    assert "1,000 bytes" in in_pieces.json()["detail"]


@pytest.mark.parametrize("length", ["1" * 5000, "-1", "1e9", "\u0661"])
def test_unusual_content_lengths_are_rejected(length: str) -> None:
    with client() as web:
        headers = {"Content-Length": length.encode()}
        assert web.post("/", content=b"x", headers=headers).status_code in {400, 413}


def test_some_paths_accept_larger_bodies() -> None:
    with client() as web:
        assert web.post("/v1/items", content=b"x" * 2000).text == "2000"
        too_large = web.post("/v1/items", content=iter([b"x" * 1500] * 2))
    assert (too_large.status_code, "2,000 bytes" in too_large.text) == (413, True)


def test_bodies_of_all_requests_together_are_limited() -> None:
    release = asyncio.Event()
    statuses: list[int] = []

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await release.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async def post(app: SecurityMiddleware, size: int) -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x" * size}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app(scope, receive, send)

    async def main() -> None:
        app = SecurityMiddleware(wait, keys=ApiKeys(), max_body=1000, max_bodies=2000)
        first = [asyncio.create_task(post(app, 1000)) for _ in range(2)]
        await asyncio.sleep(0)
        await post(app, 1)
        assert statuses == [503]
        release.set()
        await asyncio.gather(*first)
        await post(app, 1000)
        assert statuses == [503, 200, 200, 200]

    asyncio.run(main())


def test_every_response_has_security_headers() -> None:
    with client("secret") as web:
        for answer in (web.get("/healthz"), web.get("/")):
            assert answer.headers["content-security-policy"].startswith("default-src 'self'")
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_key_may_be_a_bearer_token() -> None:
    with client("secret", base_url="http://shop.example") as web:
        for value, status in (("Bearer secret", 200), ("bearer guess", 401), ("secret", 401)):
            assert web.get("/v1/users", headers={"Authorization": value}).status_code == status
