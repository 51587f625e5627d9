"""Whether the hub of checkpoints can be reached, so that loading need not wait for it."""

from __future__ import annotations

import functools
import socket
import time
import urllib.parse
import urllib.request
from typing import Final

import huggingface_hub

_TIMEOUT: Final = 5.0  # seconds


def reaches_hub() -> bool:
    """Return whether the hub accepts connections; tested once per minute."""
    return _connects(int(time.monotonic() // 60))


@functools.lru_cache(maxsize=1)
def _connects(minute: int) -> bool:
    del minute  # only part of the cache key
    if urllib.request.getproxies():
        return True  # a proxy connects for the client
    address = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=_TIMEOUT).close()
    except OSError:
        return False
    return True
