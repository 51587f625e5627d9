"""Interpretation of HTTP responses: the JSON of a success, or why a request failed.

Used by `client.py`, without network access. Providers report failures in many ways: as a status, as
an error object in a response with status 200, as an HTML page. An error object with a code is
treated as if the code were the status.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from mllm_msr.data.retry_after import retry_after

_RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLOADED: Final = frozenset({429, 503, 529})
_NO_ACCESS: Final = frozenset({401, 402, 403})
_NO_CREDIT: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
# Statuses of error codes and types that are names.
_STATUS_OF_NAME: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "insufficient_quota": 402,
    "billing_hard_limit_reached": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "notfounderror": 404,
    "timeout": 408,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "overloaded": 503,
    "overloaded_error": 503,
    "unavailable": 503,
    "service_unavailable": 503,
}
_EXCERPT: Final = 300
_PAGE_BYTES: Final = 10_000
_TITLE: Final = re.compile(r"<(title|h1)[^>]{0,200}>([^<]{1,200})", re.IGNORECASE)


class RequestRejectedError(Exception):
    """The endpoint rejected a request, and a retry would not help.

    Attributes:
        status: The HTTP status, or the one that an error object states.
        concerns_all: Whether the endpoint would reject every request: no access, or no credit.
    """

    def __init__(self, status: int, reason: str, *, concerns_all: bool = False) -> None:
        super().__init__(f"The endpoint returned status {status}: {reason}")
        self.status = status
        self.concerns_all = concerns_all


class MalformedResponseError(Exception):
    """The response has an unexpected format; a retry may help."""


class TransientError(Exception):
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


def parse_response(
    status: int, headers: Mapping[str, str], content: bytes, *, allow_text: bool = False
) -> dict[str, Any]:
    """Return the JSON object of a response.

    Args:
        status: The HTTP status.
        headers: The HTTP headers.
        content: The body.
        allow_text: Whether plain text is a success, as on some routes; it returns an empty object.

    Raises:
        TransientError: The request failed, and a retry may succeed.
        RequestRejectedError: The request failed, and a retry would not help.
        MalformedResponseError: The body is not a JSON object.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list) and value and isinstance(value[0], dict) and "error" in value[0]:
        value = value[0]
    if not 200 <= status < 300:
        error = _error_object(value) if isinstance(value, dict) else None
        raise request_error(status, error or _describe_content(content), headers)
    if isinstance(value, dict):
        # With choices as well, the answer is what was generated until the failure.
        if value.get("object") == "error" or value.get("error"):
            raise request_error(None, _error_object(value), headers)
        return value
    if content[:1] == b"{":
        raise MalformedResponseError(
            f"The response of {len(content)} bytes is not a complete JSON object"
        )
    if allow_text:
        return {}
    if not content.strip():
        raise MalformedResponseError("The response is empty")
    raise MalformedResponseError(
        f"The response is not a JSON object but {_describe_content(content)}"
    )


def request_error(
    status: int | None, error: object, headers: Mapping[str, str] | None = None
) -> TransientError | RequestRejectedError:
    """Return the exception for an error that an endpoint reports.

    Args:
        status: The HTTP status; None if it was 200, and the error's own code counts.
        error: The error: an object with a message and a code, or a text.
        headers: The HTTP headers.
    """
    fields = error if isinstance(error, Mapping) else {"message": error}
    names = [str(fields.get(key) or "").lower() for key in ("code", "status", "type")]
    if status is None:
        status = next((found for found in map(_status_of, names) if found), None)
    reason = _message(fields)
    if status is None:
        return TransientError(f"The endpoint returned an error: {reason}")
    has_no_credit = not _NO_CREDIT.isdisjoint(names)
    if status in _RETRYABLE and not has_no_credit:
        return TransientError(
            f"The endpoint returned status {status}: {reason}",
            retry_after=retry_after(headers or {}),
            is_overload=status in _OVERLOADED,
            is_outage=status >= 500,
        )
    return RequestRejectedError(status, reason, concerns_all=status in _NO_ACCESS or has_no_credit)


def _error_object(value: Mapping[str, Any]) -> object:
    return value.get("error") or value.get("detail") or value


def _status_of(name: str) -> int | None:
    if re.fullmatch(r"[45]\d\d", name):
        return int(name)
    return _STATUS_OF_NAME.get(name)


def _message(fields: Mapping[str, Any]) -> str:
    """Return the message of an error on one line, with that of a provider behind a router."""
    texts = [str(fields.get("message") or dict(fields))]
    metadata = fields.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("raw"):
        texts.append(f"({metadata['raw']})")
    line = " ".join(" ".join(texts).split())[:_EXCERPT]
    return line.encode("utf-8", "replace").decode() or "no message"


def _describe_content(content: bytes) -> str:
    """Return the beginning of a body in words, or the title of an HTML page."""
    text = content[:_PAGE_BYTES].decode("utf-8", "replace").strip()
    if not text:
        return "no message"
    if text.startswith("<"):
        title = _TITLE.search(text)
        name = " ".join(html.unescape(title[2]).split()) if title else ""
        return f"an HTML page {name!r}" if name else f"an HTML page: {text[:_EXCERPT]!r}"
    return " ".join(text.split())[:_EXCERPT]
