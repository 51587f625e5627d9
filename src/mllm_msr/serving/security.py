"""Access control: API keys, addresses, request sizes and security headers.

Keys are read only from the environment (`MLLM_MSR_API_KEYS`, separated by commas). Without a key,
the service listens only on loopback addresses and accepts only requests for loopback host names, so
that no web page can reach it through DNS rebinding.
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

# Paths without a key: probes of an orchestrator, the files of the page, which then asks for the
# key, and the API reference. None of them reveals data of users.
_PUBLIC_PATHS: Final = frozenset({"/healthz", "/readyz", "/", "/docs", "/openapi.json"})
_PUBLIC_FOLDER: Final = "/page/"

_HEADERS: Final = {
    # The page loads images that require a key as blobs.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_MAX_DIGITS: Final = 18  # of a content length

_Rejection = tuple[int, str]  # status and message


class ApiKeys:
    """Accepted API keys, stored as hashes and compared in constant time.

    Args:
        keys: The keys. Without a key, every request is accepted.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ApiKeys:
        """Read the keys from `MLLM_MSR_API_KEYS`; blank keys are ignored."""
        keys = environment.get(KEYS_VARIABLE, "").split(",")
        return cls(key.strip() for key in keys if key.strip())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, key: str | None) -> bool:
        """Return whether a request with this key is accepted."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        # Compare all keys, so that the duration does not depend on which one matches.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return key is not None and any(matches)


def check_address(host: str, keys: ApiKeys) -> None:
    """Check that the service listens only on loopback addresses unless there is a key.

    Raises:
        UsageError: The address is not a loopback address and there is no key.
    """
    if not keys and not _is_loopback(host):
        raise UsageError(
            f"Listening on {host} requires an API key. Set {KEYS_VARIABLE}, or omit --host to "
            "listen on 127.0.0.1."
        )


class SecurityMiddleware:
    """ASGI middleware that checks host name, key and size, and adds security headers.

    Args:
        app: The wrapped application.
        keys: Accepted keys.
        max_body: Maximum size of a request body, in bytes.
        max_bodies: Maximum size of the bodies of all requests that have not been answered.
        exceptions: Other maximum sizes, by path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        max_body: int,
        max_bodies: int,
        exceptions: Mapping[str, int] | None = None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._max_body = max_body
        self._max_bodies = max_bodies
        self._exceptions = exceptions or {}
        self._n_bytes = 0  # of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request to the application, or reject it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rejection = self._check(scope)
        if rejection is not None:
            await _send_error(send, *rejection)
            return
        await self._forward(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request; stop reading when its body, or all bodies together, are too large."""
        limit = self._limit(scope)
        size = 0
        started = False
        rejection: _Rejection | None = None

        async def limited_receive() -> Message:
            nonlocal size, rejection
            message = await receive()
            n_bytes = len(message.get("body", b""))
            size += n_bytes
            self._n_bytes += n_bytes
            if size > limit:
                rejection = _too_large(limit)
            elif self._n_bytes > self._max_bodies:
                rejection = 503, "Too many large requests are in progress. Try again in a moment."
            # Stop reading: the application sees a client that has disconnected.
            return {"type": "http.disconnect"} if rejection else message

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if rejection and not started:
                return
            if message["type"] == "http.response.start":
                started = True
                for name, value in _HEADERS.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, limited_receive, send_with_headers)
        except Exception:
            if not rejection:
                raise
        finally:
            self._n_bytes -= size
        if rejection and not started:
            await _send_error(send, *rejection)

    def _limit(self, scope: Scope) -> int:
        return self._exceptions.get(scope["path"], self._max_body)

    def _check(self, scope: Scope) -> _Rejection | None:
        """Return the status and message of a rejection; `None` if the request is accepted."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # Without the port; an IPv6 address is in brackets.
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if not self._keys and not _is_loopback(name.lower()):
            return 421, "Without an API key, the service is available only on localhost."
        path = scope["path"]
        is_public = path in _PUBLIC_PATHS or path.startswith(_PUBLIC_FOLDER)
        if not is_public and not self._keys.accepts(_sent_key(headers)):
            return 401, f"The header {KEY_HEADER} must contain a valid API key."
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "The header Content-Length must be a number."
        limit = self._limit(scope)
        # Python rejects the conversion of thousands of digits.
        if len(length) > _MAX_DIGITS or int(length) > limit:
            return _too_large(limit)
        return None


def _sent_key(headers: Headers) -> str | None:
    """Return the key of a request; clients of other APIs send it as a bearer token."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get(KEY_HEADER, token.strip() if scheme.lower() == "bearer" else None)


def _too_large(limit: int) -> _Rejection:
    return 413, f"The request body is larger than {limit:,} bytes."


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _send_error(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode("ascii")
    headers = {**_HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body))}
    if status == 503:
        headers["Retry-After"] = "1"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
