"""One HTTP endpoint: requests tried again while that may help, and errors that say why not.

The layer between `openai.py`, which knows what to ask, and the network. Whatever may pass (no
connection, time, 408, 429, 5xx, JSON that ends too early, a reply of an unexpected form) is tried
again after a random wait, inside a budget of attempts and seconds; what will not pass is refused
at once. The key is read from the environment, sent in one header and cut out of every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import httpx2

from mllm_msr.backends._http.retry import AdaptiveLimit, Breaker, Timing, backoff
from mllm_msr.errors import BackendError

_Reply = TypeVar("_Reply")

_TRY_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLOADED: Final = frozenset({429, 503, 529})
_NO_CREDIT: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MAX_BYTES: Final = 32 * 2**20
_EXCERPT: Final = 300
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class RefusedError(Exception):
    """The endpoint will not answer this request, however often it is asked.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the endpoint answers {status}: {reason}")
        self.status = status


class UnansweredError(Exception):
    """The endpoint did not answer this request within its budget."""


class MalformedError(Exception):
    """A reply that is not of the expected form; asking again may help."""


class _TroubleError(Exception):
    """An attempt that failed, and that may succeed later.

    Attributes:
        wait: Seconds that the server asked for.
        is_overload: Whether the server had too much to do.
        is_outage: Whether the server as a whole seems to be down.
    """

    def __init__(
        self, reason: str, *, wait: float = 0.0, is_overload: bool = False, is_outage: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.is_overload = is_overload
        self.is_outage = is_outage


class Endpoint:
    """A server's address, how to speak to it, and how it has been doing.

    Args:
        url: Address up to and including its version ("http://127.0.0.1:8000/v1").
        key_variable: Environment variable that holds the key; without a value none is sent.
        concurrency: Most requests under way at a time.
        timeout: Seconds for one attempt as a whole.
        attempts: Most attempts for one request.
        total_timeout: Seconds of waiting for one request in all, and of failure after which the
            whole work ends.
        timing: Clock, sleep and chance.

    Raises:
        BackendError: The address is none, or holds a password.
    """

    def __init__(
        self,
        url: str,
        *,
        key_variable: str,
        concurrency: int,
        timeout: float,
        attempts: int,
        total_timeout: float,
        timing: Timing,
    ) -> None:
        self._url = _checked(url)
        self._key_variable = key_variable
        self._timeout = timeout
        self._attempts = attempts
        self._total_timeout = total_timeout
        self._timing = timing
        self._limit = AdaptiveLimit(concurrency, timing)
        self._breaker = Breaker(str(self._url), timing, total_timeout=total_timeout)
        self._client: httpx2.AsyncClient | None = None

    @property
    def name(self) -> str:
        """The address, as errors give it."""
        return str(self._url)

    @property
    def key_variable(self) -> str:
        """Name of the environment variable with the key."""
        return self._key_variable

    async def ask(
        self,
        route: str,
        body: Mapping[str, object] | None,
        read: Callable[[dict[str, Any]], _Reply],
    ) -> _Reply:
        """Send a request and read its reply, as often as it takes.

        Args:
            route: Path below the address ("chat/completions"); "../tokenize" is beside it.
            body: JSON to post; `None` gets.
            read: Makes the result out of the reply's JSON; may raise `MalformedError`.

        Raises:
            RefusedError: Asking again would not help.
            UnansweredError: The budget is used up.
            BackendError: The server as a whole is out of reach.
        """
        waited = 0.0
        for attempt in range(self._attempts):
            await self._breaker.permit()
            try:
                return await self._attempt(route, body, read)
            except _TroubleError as trouble:
                wait = backoff(attempt, self._timing, at_least=trouble.wait)
                if attempt + 1 == self._attempts or waited + wait > self._total_timeout:
                    raise UnansweredError(
                        f"{trouble} (attempt {attempt + 1} was the last)"
                    ) from None
                waited += wait
            await self._timing.sleep(wait)
        raise UnansweredError("no attempt was allowed")

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _attempt(
        self,
        route: str,
        body: Mapping[str, object] | None,
        read: Callable[[dict[str, Any]], _Reply],
    ) -> _Reply:
        async with self._limit.slot() as started:
            try:
                result = read(await self._exchange(route, body))
            except MalformedError as error:
                self._breaker.succeeded()
                raise _TroubleError(str(error)) from error
            except _TroubleError as trouble:
                if trouble.is_overload:
                    self._limit.overloaded(started, wait=trouble.wait)
                if trouble.is_outage:
                    self._breaker.failed(str(trouble))
                else:
                    self._breaker.succeeded()
                raise
            except RefusedError:
                self._breaker.succeeded()
                raise
            self._limit.succeeded()
            self._breaker.succeeded()
            return result

    async def _exchange(self, route: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        """One request and the JSON of its reply."""
        try:
            status, headers, content = await self._send(route, body)
        except httpx2.TimeoutException:
            raise _TroubleError(
                f"no answer after {self._timeout:g} seconds", is_overload=True, is_outage=True
            ) from None
        except httpx2.TransportError as error:
            reason = self._without_key(f"{type(error).__name__}: {error}")
            raise _TroubleError(reason, is_outage=True) from None
        parsed = _parsed(content)
        if status == 200:
            if parsed is None and content[:1] == b"{":
                raise MalformedError(f"a reply of {len(content)} bytes is no complete JSON object")
            return {} if parsed is None else parsed  # some routes answer in plain text
        reason = self._without_key(_reason(parsed, content))
        if status in _TRY_AGAIN and _code(parsed) not in _NO_CREDIT:
            raise _TroubleError(
                f"the endpoint answers {status}: {reason}",
                wait=_retry_after(headers),
                is_overload=status in _OVERLOADED,
                is_outage=status >= 500,
            )
        raise RefusedError(status, reason)

    async def _send(
        self, route: str, body: Mapping[str, object] | None
    ) -> tuple[int, httpx2.Headers, bytes]:
        client = self._connected()
        url = httpx2.URL(f"{self._url}/").join(route)
        request = client.build_request("GET" if body is None else "POST", url, json=body)
        # The library's own limit is for each read: a server that drips would never reach it.
        try:
            async with (
                asyncio.timeout(self._timeout),
                contextlib.aclosing(await client.send(request, stream=True)) as response,
            ):
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > _MAX_BYTES:
                        raise RefusedError(response.status_code, f"more than {_MAX_BYTES} bytes")
                return response.status_code, response.headers, bytes(content)
        except TimeoutError:
            raise httpx2.ReadTimeout("too slow") from None

    def _connected(self) -> httpx2.AsyncClient:
        if self._client is None:
            key = self._key()
            self._client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=self._timeout,
                # A proxy of the environment knows no way to this machine's own servers.
                trust_env=self._url.host not in _LOOPBACK,
                limits=httpx2.Limits(max_connections=None),
            )
        return self._client

    def _key(self) -> str:
        return os.environ.get(self._key_variable, "").strip()

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "[key]") if key else text


def _checked(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url.rstrip("/"))
    except (httpx2.InvalidURL, TypeError, AttributeError):
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise BackendError(
            needed="an http or https address without a name or password in it",
            received=f"url={url.rpartition('@')[2]!r}",
            remedy="give it like http://127.0.0.1:8000/v1 and put the key into the environment",
        )
    return parsed


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _error(parsed: dict[str, Any] | None) -> Any:
    return None if parsed is None else parsed.get("error", parsed.get("detail", parsed))


def _code(parsed: dict[str, Any] | None) -> object:
    error = _error(parsed)
    return error.get("code") if isinstance(error, dict) else None


def _reason(parsed: dict[str, Any] | None, content: bytes) -> str:
    """What an error's body says, on one line."""
    error = _error(parsed)
    if isinstance(error, dict):
        error = error.get("message", error)
    text = content.decode("utf-8", "replace") if error is None else str(error)
    return " ".join(text.split())[:_EXCERPT] or "nothing more"


def _retry_after(headers: httpx2.Headers) -> float:
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
