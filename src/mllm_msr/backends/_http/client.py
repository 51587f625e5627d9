"""Client of one HTTP endpoint: retries, timeouts and error messages.

The layer between `openai.py`, which determines the requests, and the network. Transient failures
(no connection, timeouts, 408, 429, 5xx, truncated JSON, responses in an unexpected format) are
retried after a random wait, within a budget of attempts and seconds. Permanent failures are raised
immediately. The API key is read from the environment, sent in one header and removed from every
message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import httpx2

from mllm_msr.backends._http.retry import AdaptiveLimit, CircuitBreaker, Timing, backoff
from mllm_msr.data._retry_after import retry_after
from mllm_msr.errors import BackendError

_Result = TypeVar("_Result")

_RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLOADED: Final = frozenset({429, 503, 529})
_NO_CREDIT: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MAX_BYTES: Final = 32 * 2**20
_EXCERPT: Final = 300
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class RequestRejectedError(Exception):
    """The endpoint rejected a request, and a retry would not help.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"The endpoint returned status {status}: {reason}")
        self.status = status


class RetriesExhaustedError(Exception):
    """The endpoint did not answer a request within its budget."""


class MalformedResponseError(Exception):
    """The response has an unexpected format; a retry may help."""


class _TransientError(Exception):
    """An attempt failed, and a retry may succeed.

    Attributes:
        retry_after: Seconds that the server asked for.
        is_overload: Whether the server is overloaded.
        is_outage: Whether the server as a whole seems to be down.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float = 0.0,
        is_overload: bool = False,
        is_outage: bool = False,
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_overload = is_overload
        self.is_outage = is_outage


class Endpoint:
    """Client of an endpoint that adapts to the load and outages of the server.

    Args:
        url: Address up to and including the API version ("http://127.0.0.1:8000/v1").
        key_variable: Environment variable with the API key; if it is empty, no key is sent.
        concurrency: Maximum number of concurrent requests.
        timeout: Seconds for one attempt, from connecting to the end of the response.
        attempts: Maximum number of attempts for one request.
        total_timeout: Maximum seconds of waiting between the attempts of one request; also the
            duration of an outage after which requests fail.
        timing: Clock, sleep and randomness.

    Raises:
        BackendError: The address is invalid or contains a password.
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
        self._url = _parse_url(url)
        self._key_variable = key_variable
        self._timeout = timeout
        self._attempts = attempts
        self._total_timeout = total_timeout
        self._timing = timing
        self._limit = AdaptiveLimit(concurrency, timing)
        self._breaker = CircuitBreaker(str(self._url), timing, total_timeout=total_timeout)
        self._client: httpx2.AsyncClient | None = None

    @property
    def name(self) -> str:
        """Return the address, as shown in errors."""
        return str(self._url)

    @property
    def key_variable(self) -> str:
        """Return the name of the environment variable with the API key."""
        return self._key_variable

    async def request(
        self,
        route: str,
        body: Mapping[str, object] | None,
        parse: Callable[[dict[str, Any]], _Result],
    ) -> _Result:
        """Send a request, with retries, and return its parsed response.

        Args:
            route: Path relative to the address ("chat/completions", "../tokenize").
            body: JSON to post; None sends a GET request.
            parse: Converts the response's JSON; may raise `MalformedResponseError`.

        Raises:
            RequestRejectedError: A retry would not help.
            RetriesExhaustedError: The budget is used up.
            BackendError: The server as a whole is unavailable.
        """
        waited = 0.0
        for attempt in range(self._attempts):
            await self._breaker.wait()
            try:
                return await self._attempt(route, body, parse)
            except _TransientError as error:
                wait = backoff(attempt, self._timing, at_least=error.retry_after)
                if attempt + 1 == self._attempts or waited + wait > self._total_timeout:
                    raise RetriesExhaustedError(
                        f"{error} (gave up after attempt {attempt + 1} of {self._attempts})"
                    ) from None
                waited += wait
            await self._timing.sleep(wait)
        raise RetriesExhaustedError("No attempt was allowed.")

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _attempt(
        self,
        route: str,
        body: Mapping[str, object] | None,
        parse: Callable[[dict[str, Any]], _Result],
    ) -> _Result:
        async with self._limit.slot() as started:
            try:
                result = parse(await self._send(route, body))
            except MalformedResponseError as error:
                self._breaker.record_success()
                raise _TransientError(str(error)) from error
            except _TransientError as error:
                if error.is_overload:
                    self._limit.record_overload(started, wait=error.retry_after)
                if error.is_outage:
                    self._breaker.record_failure(str(error))
                else:
                    self._breaker.record_success()
                raise
            except RequestRejectedError:
                self._breaker.record_success()
                raise
            self._limit.record_success()
            self._breaker.record_success()
            return result

    async def _send(self, route: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        """Send one request and return the JSON of its response."""
        try:
            status, headers, content = await self._exchange(route, body)
        except httpx2.TimeoutException:
            raise _TransientError(
                f"No response within {self._timeout:g} seconds", is_overload=True, is_outage=True
            ) from None
        except httpx2.TransportError as error:
            reason = self._redact(f"{type(error).__name__}: {error}")
            raise _TransientError(reason, is_outage=True) from None
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        parsed = value if isinstance(value, dict) else None
        if status == 200:
            if parsed is None and content[:1] == b"{":
                raise MalformedResponseError(
                    f"The response of {len(content)} bytes is not a complete JSON object"
                )
            return {} if parsed is None else parsed  # some routes respond with plain text
        code, reason = _error_details(parsed, content)
        reason = self._redact(reason)
        if status in _RETRYABLE and code not in _NO_CREDIT:
            raise _TransientError(
                f"The endpoint returned status {status}: {reason}",
                retry_after=retry_after(headers),
                is_overload=status in _OVERLOADED,
                is_outage=status >= 500,
            )
        raise RequestRejectedError(status, reason)

    async def _exchange(
        self, route: str, body: Mapping[str, object] | None
    ) -> tuple[int, httpx2.Headers, bytes]:
        """Return the status, headers and content of an HTTP response."""
        if self._client is None:
            key = self._key()
            self._client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=self._timeout,
                # A proxy from the environment cannot reach servers on this machine.
                trust_env=self._url.host not in _LOOPBACK,
                limits=httpx2.Limits(max_connections=None),
            )
        url = httpx2.URL(f"{self._url}/").join(route)
        method = "GET" if body is None else "POST"
        request = self._client.build_request(method, url, json=body)
        # The library's timeout applies to each read, so a slow stream would never reach it.
        try:
            async with (
                asyncio.timeout(self._timeout),
                contextlib.aclosing(await self._client.send(request, stream=True)) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_BYTES:
                        reason = f"the response has more than {_MAX_BYTES:,} bytes"
                        raise RequestRejectedError(response.status_code, reason)
                return response.status_code, response.headers, bytes(content)
        except TimeoutError:
            raise httpx2.ReadTimeout("too slow") from None

    def _key(self) -> str:
        return os.environ.get(self._key_variable, "").strip()

    def _redact(self, text: str) -> str:
        """Replace the API key in a text by a placeholder."""
        key = self._key()
        return text.replace(key, "[key]") if key else text


def _parse_url(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url.rstrip("/"))
    except (httpx2.InvalidURL, TypeError, AttributeError):
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise BackendError(
            f"{url.rpartition('@')[2]!r} is not a valid endpoint address. Use an http or https URL "
            "without user name or password, such as http://127.0.0.1:8000/v1, and set the API key "
            "in the environment."
        )
    return parsed


def _error_details(parsed: dict[str, Any] | None, content: bytes) -> tuple[object, str]:
    """Return the code and the message, on one line, of an error response."""
    error = None if parsed is None else parsed.get("error", parsed.get("detail", parsed))
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(error, dict):
        error = error.get("message", error)
    text = content.decode("utf-8", "replace") if error is None else str(error)
    return code, " ".join(text.split())[:_EXCERPT] or "no message"
