"""Who may ask, from where, and how much: keys, addresses, sizes, headers.

Keys come from the environment alone (`MLLM_MSR_API_KEYS`, separated by commas). Without one the
service answers on loopback only, and only under loopback's names, so that no web page can reach
it through a name of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllm_msr.errors import UsageError

KEYS_VARIABLE: Final = "MLLM_MSR_API_KEYS"
KEY_HEADER: Final = "X-API-Key"

# Probes of an orchestrator carry no key, nor does a browser that opens the page, which asks for
# it; none of these says anything about users.
_OPEN: Final = frozenset({
    "/healthz", "/readyz", "/", "/page/page.css", "/page/page.js", "/page/icon.svg",
})  # fmt: skip

_HEADERS: Final = {
    # Images that are fetched with a key are shown from memory, as blobs.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Keys:
    """The keys that open the service; kept as hashes and compared in constant time.

    Args:
        keys: The keys; none at all opens it to everyone who can reach it.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Keys:
        """The keys of `MLLM_MSR_API_KEYS`; blank ones do not count."""
        given = environment.get(KEYS_VARIABLE, "").split(",")
        return cls(key.strip() for key in given if key.strip())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admits(self, key: str | None) -> bool:
        """Whether a key opens the service."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        # Every key is compared, so that the time does not tell which one was near.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return key is not None and any(found)


def check_address(host: str, keys: Keys) -> None:
    """Refuse to listen where strangers are, unless there is a key.

    Raises:
        UsageError: The address is not loopback and there is no key.
    """
    if not keys and not _is_loopback(host):
        raise UsageError(
            needed=f"an API key in {KEYS_VARIABLE} to listen beyond this machine",
            received=f"--host {host} without one",
            remedy="set the variable, or leave --host out to listen on 127.0.0.1",
        )


class Guard:
    """What every request meets first: name, key, size, headers.

    Args:
        app: What it protects.
        keys: Who may ask.
        max_body: Largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, max_body: int) -> None:
        self._app = app
        self._keys = keys
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        size = 0
        too_large = started = False

        async def counted() -> Message:
            nonlocal size, too_large
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:
                # The rest is not read: what is behind sees a client that has gone away.
                too_large = True
                return {"type": "http.disconnect"}
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if too_large and not started:
                return
            if message["type"] == "http.response.start":
                started = True
                for name, value in _HEADERS.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, counted, with_headers)
        except Exception:
            if not too_large:
                raise
        if too_large and not started:
            await _answer(send, 413, self._size_sentence())

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if not self._keys and not _is_loopback(_name(headers.get("host", ""))):
            return 421, "Ask under a name of loopback (localhost), or serve with an API key."
        if scope["path"] not in _OPEN and not self._keys.admits(headers.get(KEY_HEADER)):
            return 401, f"A valid key in the header {KEY_HEADER} is needed."
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "Content-Length must be a number."
        if int(length) > self._max_body:
            return 413, self._size_sentence()
        return None

    def _size_sentence(self) -> str:
        return f"The body may have at most {self._max_body:,} bytes."


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode("ascii")
    headers = {**_HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
