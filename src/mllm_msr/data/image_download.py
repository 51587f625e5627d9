"""Fetch items' images from the links that data sets give, without trusting the links.

A link comes from a file that anybody may have written, so it is followed only over https, to a
host that the user has named, at an address that is public and was looked at before connecting;
each redirect anew. What arrives is bounded in bytes and time and must decode as a image before
it gets its final name. Running it again fetches only what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import ipaddress
import random
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import httpx2
import polars as pl

from mllm_msr import tables
from mllm_msr.data import images
from mllm_msr.errors import ImageError
from mllm_msr.storage import atomic

Resolver = Callable[[str, int], Sequence[str]]
Outcome = Literal["ok", "missing", "refused", "failed"]

_URLS: Final[tables.Schema] = {"item_id": pl.String(), "url": pl.String()}
_MAX_REDIRECTS: Final = 5
_MAX_WAIT: Final = 120.0  # seconds; a server that asks for more patience is given up
_GONE: Final = frozenset({404, 410})
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_6TO4: Final = ipaddress.IPv6Network("2002::/16")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one link.

    Attributes:
        status: "ok" (the image is there), "missing" (no link, or the server has none),
            "refused" (not allowed, or no usable image) or "failed" (network or server).
        image: The image's file where the status is "ok".
        reason: One sentence for what is not "ok".
    """

    status: Outcome
    image: Path | None = None
    reason: str = ""


def fetch_images(
    urls: pl.DataFrame,
    folder: Path,
    *,
    allowed_hosts: Collection[str],
    max_bytes: int = images.MAX_BYTES,
    max_pixels: int = images.MAX_PIXELS,
    timeout: float = 30.0,
    concurrency: int = 8,
    attempts: int = 4,
    backoff: float = 1.0,
    gate: Gate | None = None,
) -> pl.DataFrame:
    """Fetch the images of items that are not in the folder yet.

    Args:
        urls: Columns `item_id` and `url` (null where there is none).
        folder: Where the images go; made where it does not exist. The file's name follows
            from the link, so that items may share one.
        allowed_hosts: Hosts that may be asked, in full ("m.media-amazon.com"), with a port
            ("host:8443") where it is not the usual one.
        max_bytes: Largest image, in bytes.
        max_pixels: Largest image, in pixels.
        timeout: Seconds for one attempt as a whole, redirects included.
        concurrency: Downloads at a time.
        attempts: Most attempts for one link; only trouble that may pass is tried again.
        backoff: Seconds; attempt n + 1 waits a random time up to `backoff` * 2 ** n, and at
            least what the server's Retry-After says.
        gate: What decides where to connect, in place of the rules above.

    Returns:
        Columns `item_id`, `image` (path, null if not fetched), `status` ("ok", "missing",
        "refused", "failed") and `reason`, a row for each row of `urls` in the same order.

    Raises:
        DataError: `urls` lacks a column.
        RunFolderError: The disk is full or the folder cannot be written.
    """
    urls = tables.conform(urls, _URLS, name="urls")
    wanted = urls["url"].drop_nulls().unique(maintain_order=True).to_list()
    fetcher = _Fetcher(
        folder,
        gate=gate or Gate(frozenset(host.lower() for host in allowed_hosts)),
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        timeout=timeout,
        attempts=attempts,
        backoff=backoff,
    )
    fetched = asyncio.run(fetcher.fetch_all(wanted, concurrency=concurrency))
    no_link = Fetched("missing", reason="the item has no link")
    rows = [no_link if url is None else fetched[url] for url in urls["url"]]
    return pl.DataFrame(
        {
            "item_id": urls["item_id"],
            "image": [str(row.image) if row.image else None for row in rows],
            "status": [row.status for row in rows],
            "reason": [row.reason for row in rows],
        },
        schema_overrides={"image": pl.String(), "status": pl.String(), "reason": pl.String()},
    )


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet.

    IPv4 addresses inside IPv6 ones (mapped, NAT64) are judged as what they are; other forms of
    embedding, multicast and everything reserved or private are not public.

    Args:
        address: IPv4 or IPv6 address in its usual notation.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            return ip.is_global and ip in _UNICAST and ip not in _6TO4
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, as the system resolves it.

    Raises:
        OSError: It has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides for each link and each redirect where, if at all, to connect.

    Attributes:
        hosts: Hosts that may be asked; `host:port` where the port is not the scheme's own.
        scheme: The only scheme that is followed.
        resolver: From a host and port to its addresses.
        admits: Whether an address may be connected to; it must hold for all of a host's.
        ssl_context: For https; `None` trusts what the system trusts.
    """

    hosts: frozenset[str]
    scheme: Literal["https", "http"] = "https"
    resolver: Resolver = resolve
    admits: Callable[[str], bool] = is_public
    ssl_context: ssl.SSLContext | None = None

    def check(self, url: httpx2.URL) -> str:
        """The host (with its port where unusual) that a link names, if it may be asked.

        Raises:
            _RefusedError: The link's form or its host is not allowed.
        """
        if url.userinfo:
            raise _RefusedError("the link holds a user name or password")
        if url.scheme != self.scheme:
            raise _RefusedError(f"{url!s:.200} is no {self.scheme} link")
        host = url.netloc.decode("ascii").lower()
        if host not in self.hosts:
            known = ", ".join(sorted(self.hosts)) or "none"
            raise _RefusedError(f"the host {host} is not one of those allowed ({known})")
        return host

    async def address(self, url: httpx2.URL, *, turn: int = 0) -> str:
        """A checked address of a link's host.

        Args:
            url: A link that `check` has passed.
            turn: Which of several addresses to take, counted round.

        Raises:
            _RefusedError: One of the host's addresses is not public.
            _TroubleError: The host has no address.
        """
        port = url.port or (443 if self.scheme == "https" else 80)
        try:
            addresses = await asyncio.to_thread(self.resolver, url.host, port)
        except (OSError, UnicodeError) as error:
            raise _TroubleError(f"the host {url.host} has no address ({error})") from error
        for address in addresses:
            if not self.admits(address):
                raise _RefusedError(f"the host {url.host} has the address {address}, not public")
        return addresses[turn % len(addresses)]


class _RefusedError(Exception):
    """Trying again would not help."""


class _MissingError(Exception):
    """The server has no such image."""


class _TroubleError(Exception):
    """Trying again may help, after so many seconds at least."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Fetcher:
    """Downloads links into a folder; one `fetch_all` for each object."""

    def __init__(
        self,
        folder: Path,
        *,
        gate: Gate,
        max_bytes: int,
        max_pixels: int,
        timeout: float,
        attempts: int,
        backoff: float,
    ) -> None:
        self._folder = folder
        self._gate = gate
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._timeout = timeout
        self._attempts = max(1, attempts)
        self._backoff = backoff
        self._random = random.SystemRandom()
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def fetch_all(self, urls: Iterable[str], *, concurrency: int) -> dict[str, Fetched]:
        remaining: Iterator[str] = iter(urls)
        fetched: dict[str, Fetched] = {}

        async def work() -> None:
            for url in remaining:
                fetched[url] = await self._fetch(url)

        async with contextlib.AsyncExitStack() as stack:
            # One client for each host: connections are kept by address, and two hosts at one
            # address must not share a connection that was certified for the other.
            trusted = self._gate.ssl_context or ssl.create_default_context()
            for host in self._gate.hosts:
                client = httpx2.AsyncClient(verify=trusted, trust_env=False, timeout=self._timeout)
                self._clients[host] = await stack.enter_async_context(client)
            await asyncio.gather(*(work() for _ in range(max(1, concurrency))))
        return fetched

    async def _fetch(self, link: str) -> Fetched:
        path = self._folder / _file_name(link)
        if (await asyncio.to_thread(images.image_status, path)).status == "ok":
            return Fetched("ok", path)
        wait, reason = 0.0, "not tried"
        for attempt in range(self._attempts):
            if attempt:
                jitter = self._random.uniform(0, self._backoff * 2**attempt)
                await asyncio.sleep(max(wait, jitter))
            try:
                async with asyncio.timeout(self._timeout):
                    content = await self._download(link, turn=attempt)
                await asyncio.to_thread(self._keep, content, link, path)
                return Fetched("ok", path)
            except _MissingError as error:
                return Fetched("missing", reason=str(error))
            except (_RefusedError, ImageError, httpx2.InvalidURL) as error:
                return Fetched("refused", reason=str(error))
            except TimeoutError:
                wait, reason = 0.0, f"not finished after {self._timeout:g} seconds"
            except httpx2.TransportError as error:
                wait, reason = 0.0, f"{type(error).__name__}: {error}"
            except _TroubleError as error:
                wait, reason = error.wait, str(error)
                if wait > _MAX_WAIT:
                    break
        return Fetched("failed", reason=f"{reason} (attempt {attempt + 1} was the last)")

    async def _download(self, link: str, *, turn: int) -> bytes:
        url = httpx2.URL(link)
        for _ in range(_MAX_REDIRECTS + 1):
            host = self._gate.check(url)
            address = await self._gate.address(url, turn=turn)
            client = self._clients[host]
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": host, "Accept": "image/*", "Accept-Encoding": "fingerprint"},
                extensions={
                    "sni_hostname": url.host,
                    "timeout": httpx2.Timeout(self._timeout).as_dict(),
                },
            )
            async with contextlib.aclosing(await client.send(request, stream=True)) as response:
                if not response.has_redirect_location:
                    return await self._body(response)
                url = url.join(response.headers["Location"])
        raise _RefusedError(f"more than {_MAX_REDIRECTS} redirects")

    async def _body(self, response: httpx2.Response) -> bytes:
        code = response.status_code
        if code in _GONE:
            raise _MissingError(f"the server answers {code}")
        if code in _TRY_AGAIN:
            raise _TroubleError(f"the server answers {code}", wait=_retry_after(response))
        if code != 200:
            raise _RefusedError(f"the server answers {code}")
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > self._max_bytes:
                raise _RefusedError(f"more than {self._max_bytes:,} bytes")
        return bytes(content)

    def _keep(self, content: bytes, link: str, path: Path) -> None:
        images.decode_image(content, name=link, max_pixels=self._max_pixels)
        with atomic.replace_file(path) as temporary:
            temporary.write_bytes(content)


def _file_name(link: str) -> str:
    ending = PurePosixPath(link.partition("?")[0]).suffix.lower()
    name = hashlib.sha256(link.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{name}{ending if ending in _ENDINGS else '.img'}"


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
