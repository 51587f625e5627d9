"""The Retry-After header of HTTP responses, for image downloads and model endpoints."""

from __future__ import annotations

import contextlib
import email.utils
import time
from collections.abc import Mapping


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header, given as a number or a date; 0 without one."""
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
