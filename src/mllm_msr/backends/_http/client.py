"""Client of one HTTP endpoint: retries, timeouts and error messages.

The layer between `openai.py`, which determines the requests, and the network. Transient failures
(no connection, timeouts, 408, 429, 5xx, truncated JSON, responses in an unexpected format) are
retried after a random wait, within a budget of attempts and seconds. Permanent failures are raised
immediately (`responses.py` distinguishes them). The API key is read from the environment, sent in
one header and removed from every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import httpx2

from mllm_msr.backends._http.responses import (
    MalformedResponseError,
    RequestRejectedError,
    TransientError,
    parse_response,
)
from mllm_msr.backends._http.retry import AdaptiveLimit, CircuitBreaker, Timing, backoff
from mllm_msr.errors import BackendError

_Result = TypeVar("_Result")

_MAX_BYTES: Final = 8 * 2**20
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class RetriesExhaustedError(Exception):
    """The endpoint did not answer a request within its budget.

    Attributes:
        is_slow: Whether it sent no response within the time limit of an attempt.
    """

    def __init__(self, reason: str, *, is_slow: bool = False) -> None:
        super().__init__(reason)
        self.is_slow = is_slow


class _SlowResponseError(TransientError):
    """The endpoint sent no response within the time limit of an attempt."""


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
        self._url = parse_url(url)
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
        *,
        allow_text: bool = False,
    ) -> _Result:
        """Send a request, with retries, and return its parsed response.

        Args:
            route: Path relative to the address ("chat/completions", "../tokenize").
            body: JSON to post; None sends a GET request.
            parse: Converts the response's JSON; may raise `MalformedResponseError`.
            allow_text: Whether plain text is a success; `parse` then gets an empty object.

        Raises:
            RequestRejectedError: A retry would not help.
            RetriesExhaustedError: The budget is used up.
            BackendError: The server as a whole is unavailable.
        """
        waited = 0.0
        for attempt in range(self._attempts):
            await self._breaker.wait()
            try:
                return await self._attempt(route, body, parse, allow_text=allow_text)
            except TransientError as error:
                wait = backoff(attempt, self._timing, at_least=error.retry_after)
                if attempt + 1 == self._attempts or waited + wait > self._total_timeout:
                    raise RetriesExhaustedError(
                        f"{error} (gave up after attempt {attempt + 1} of {self._attempts})",
                        is_slow=isinstance(error, _SlowResponseError),
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
        *,
        allow_text: bool,
    ) -> _Result:
        async with self._limit.slot() as started:
            try:
                result = parse(await self._send(route, body, allow_text=allow_text))
            except MalformedResponseError as error:
                self._breaker.record_success()
                raise TransientError(self._redact(str(error))) from error
            except TransientError as error:
                if error.is_overload:
                    # Other requests do not wait longer than this one would.
                    wait = min(error.retry_after, self._total_timeout)
                    self._limit.record_overload(started, wait=wait)
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

    async def _send(
        self, route: str, body: Mapping[str, object] | None, *, allow_text: bool
    ) -> dict[str, Any]:
        """Send one request and return the JSON of its response."""
        try:
            status, headers, content = await self._exchange(route, body)
        except httpx2.TimeoutException:
            raise _SlowResponseError(
                f"No response within {self._timeout:g} seconds", is_overload=True, is_outage=True
            ) from None
        except httpx2.RequestError as error:
            reason = self._redact(f"{type(error).__name__}: {error}")
            raise TransientError(reason, is_outage=True) from None
        # The key may occur anywhere, also in a message that is truncated later.
        return parse_response(status, headers, self._redact_bytes(content), allow_text=allow_text)

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
        # Only ASCII, since text may contain surrogates that cannot be encoded.
        sent = None if body is None else json.dumps(body).encode("ascii")
        kind = {} if body is None else {"Content-Type": "application/json"}
        request = self._client.build_request(method, url, content=sent, headers=kind)
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
        key = os.environ.get(self._key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise BackendError(
                f"The environment variable {self._key_variable} contains characters that no API "
                "key has. Set it to the key alone."
            )
        return key

    def _redact(self, text: str) -> str:
        """Replace the API key in a text by a placeholder."""
        key = self._key()
        return text.replace(key, "[key]") if key else text

    def _redact_bytes(self, content: bytes) -> bytes:
        """Replace the API key in a body, also if the escapes of JSON hide it."""
        key = self._key()
        if not key:
            return content
        if b"\\" in content:
            with contextlib.suppress(ValueError, RecursionError):
                text = json.dumps(json.loads(content), ensure_ascii=False)
                content = text.encode("utf-8", "surrogatepass")
        for form in {key, json.dumps(key)[1:-1]}:
            content = content.replace(form.encode(), b"[key]")
        return content


def parse_url(url: str) -> httpx2.URL:
    """Return an endpoint's address; raise `BackendError` if it is invalid."""
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
