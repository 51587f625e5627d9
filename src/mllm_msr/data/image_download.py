"""Download of images that datasets only link to; every link is untrusted input.

Anyone may have written the files that contain the links. A link is followed only over https, only
to a host that the user allows, and only to a public address, which is checked before connecting;
the same holds for each redirect. Responses are limited in bytes and time, and must decode as an
image before the file gets its final name. A second run downloads only missing images.

The stage `prepare` calls `fetch_images` if `images.download` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import random
import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import httpx2
import polars as pl

from mllm_msr import tables
from mllm_msr.data import images
from mllm_msr.data.retry_after import retry_after
from mllm_msr.errors import ImageError
from mllm_msr.storage import atomic

Resolver = Callable[[str, int], Sequence[str]]
Status = Literal["ok", "missing", "rejected", "failed"]

_URLS: Final[tables.Schema] = {"item_id": pl.String(), "url": pl.String()}
_MAX_REDIRECTS: Final = 5
_MAX_WAIT: Final = 120.0  # seconds; no retry if a server asks for a longer wait
_NOT_FOUND: Final = frozenset({404, 410})
_RETRYABLE: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_6TO4: Final = ipaddress.IPv6Network("2002::/16")


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """Result of one link.

    Attributes:
        status: "ok" (the image is in the folder), "missing" (no link, or the server does not have
            the image), "rejected" (the link is not allowed, or is not a usable image) or "failed"
            (network or server error).
        image: Path of the image if the status is "ok".
        reason: The problem and how to fix it if the status is not "ok", else empty.
    """

    status: Status
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
    policy: AccessPolicy | None = None,
) -> pl.DataFrame:
    """Download the images that are not in the folder yet.

    Args:
        urls: Columns `item_id` and `url` (null if the item has no link).
        folder: Folder for the images; created if it does not exist. File names are derived from
            the links, so items with the same link share a file.
        allowed_hosts: Hosts that may be contacted, as full names ("m.media-amazon.com"), with the
            port ("host:8443") if it is not 443.
        max_bytes: Maximum file size, in bytes.
        max_pixels: Maximum width times height.
        timeout: Seconds for one attempt, redirects included.
        concurrency: Number of simultaneous downloads.
        attempts: Maximum number of attempts per link. Only transient errors are retried.
        backoff: Seconds. Attempt n + 1 waits a random time up to `backoff` * 2 ** n, and at least
            as long as the server's Retry-After header requires.
        policy: Replaces `allowed_hosts` and the other connection rules, for tests.

    Returns:
        Columns `item_id`, `image` (path, null if there is none), `status` ("ok", "missing",
        "rejected", "failed") and `reason`, one row per row of `urls` in the same order.

    Raises:
        DataError: `urls` lacks a column.
        RunFolderError: The disk is full or the folder cannot be written.
    """
    urls = tables.conform(urls, _URLS, name="urls")
    downloader = _Downloader(
        folder,
        policy=policy or AccessPolicy(frozenset(host.lower() for host in allowed_hosts)),
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        timeout=timeout,
        attempts=attempts,
        backoff=backoff,
    )
    links = urls["url"].drop_nulls().unique(maintain_order=True).to_list()
    results = asyncio.run(downloader.download_all(links, concurrency=concurrency))
    no_link = DownloadResult("missing", reason="The item has no image link.")
    rows = [no_link if url is None else results[url] for url in urls["url"]]
    columns = {
        "image": [str(row.image) if row.image else None for row in rows],
        "status": [row.status for row in rows],
        "reason": [row.reason for row in rows],
    }
    schema = dict.fromkeys(columns, pl.String())
    return pl.DataFrame({"item_id": urls["item_id"], **columns}, schema_overrides=schema)


def is_public(address: str) -> bool:
    """Check whether an address belongs to the public internet.

    IPv4 addresses inside IPv6 addresses (mapped, NAT64) are checked as IPv4. Other embeddings,
    multicast, and all reserved and private ranges are not public.

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
    """Return all addresses of a host, as resolved by the system.

    Raises:
        OSError: The host has no address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Rules that decide whether to follow a link or redirect, and which address to connect to.

    Attributes:
        hosts: Hosts that may be contacted; `host:port` if the port is not the scheme's default.
        scheme: The only scheme that is followed.
        resolver: Function that returns the addresses of a host and port.
        is_allowed: Whether an address may be connected to. All addresses of a host must pass.
        ssl_context: For https; `None` trusts the certificates that the system trusts.
    """

    hosts: frozenset[str]
    scheme: Literal["https", "http"] = "https"
    resolver: Resolver = resolve
    is_allowed: Callable[[str], bool] = is_public
    ssl_context: ssl.SSLContext | None = None

    def check(self, url: httpx2.URL) -> str:
        """Return the host of a link, with its port if that is not the default.

        Raises:
            _RejectedError: The link's host, scheme or credentials are not allowed.
        """
        if url.userinfo:
            raise _RejectedError(
                "The link contains a user name or password. Use a link without credentials."
            )
        if url.scheme != self.scheme:
            raise _RejectedError(
                f"{url!s:.200} is not an {self.scheme} link. Only {self.scheme} links are followed."
            )
        host = url.netloc.decode("ascii").lower()
        if host not in self.hosts:
            allowed = ", ".join(sorted(self.hosts)) or "none"
            raise _RejectedError(
                f"The host {host} is not allowed. Allowed hosts: {allowed}. "
                "Add it to images.allowed_hosts if you trust it."
            )
        return host

    async def address(self, url: httpx2.URL, *, attempt: int = 0) -> str:
        """Resolve the host of a link and return one of its addresses.

        Args:
            url: A link that `check` accepts.
            attempt: Number of the attempt, from 0. Attempts cycle through a host's addresses.

        Raises:
            _RejectedError: One of the host's addresses is not public.
            _TransientError: The host has no address.
        """
        port = url.port or (443 if self.scheme == "https" else 80)
        try:
            addresses = await asyncio.to_thread(self.resolver, url.host, port)
        except (OSError, UnicodeError) as error:
            raise _TransientError(f"Cannot resolve the host {url.host}: {error}.") from error
        for address in addresses:
            if not self.is_allowed(address):
                raise _RejectedError(
                    f"The host {url.host} resolves to {address}. "
                    "Only public addresses are contacted."
                )
        return addresses[attempt % len(addresses)]


class _RejectedError(Exception):
    """The link or the response is not acceptable; a retry cannot help."""


class _MissingError(Exception):
    """The server does not have the image."""


class _TransientError(Exception):
    """A retry may succeed, after `wait` seconds or more."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Downloader:
    """Downloader of links into a folder; use `download_all` once per object."""

    def __init__(
        self,
        folder: Path,
        *,
        policy: AccessPolicy,
        max_bytes: int,
        max_pixels: int,
        timeout: float,
        attempts: int,
        backoff: float,
    ) -> None:
        self._folder = folder
        self._policy = policy
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._timeout = timeout
        self._attempts = max(1, attempts)
        self._backoff = backoff
        self._random = random.SystemRandom()
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def download_all(
        self, links: Iterable[str], *, concurrency: int
    ) -> dict[str, DownloadResult]:
        """Download links with a fixed number of workers and return the result of each."""
        remaining: Iterator[str] = iter(links)
        results: dict[str, DownloadResult] = {}

        async def work() -> None:
            for link in remaining:
                results[link] = await self._download(link)

        async with contextlib.AsyncExitStack() as stack:
            # One client per host: a client pools connections by address, and a connection whose
            # certificate was verified for one host must not be reused for another host.
            trusted = self._policy.ssl_context or ssl.create_default_context()
            for host in self._policy.hosts:
                client = httpx2.AsyncClient(verify=trusted, trust_env=False, timeout=self._timeout)
                self._clients[host] = await stack.enter_async_context(client)
            await asyncio.gather(*(work() for _ in range(max(1, concurrency))))
        return results

    async def _download(self, link: str) -> DownloadResult:
        """Download one link with retries, unless its image is in the folder already."""
        path = self._folder / _file_name(link)
        if await asyncio.to_thread(self._is_complete, path):
            return DownloadResult("ok", path)
        wait, reason = 0.0, ""
        for attempt in range(self._attempts):
            if attempt:
                jitter = self._random.uniform(0, self._backoff * 2**attempt)
                await asyncio.sleep(max(wait, jitter))
            try:
                async with asyncio.timeout(self._timeout):
                    content = await self._request(link, attempt=attempt)
                await asyncio.to_thread(self._save, content, link, path)
                return DownloadResult("ok", path)
            except _MissingError as error:
                return DownloadResult("missing", reason=str(error))
            except (_RejectedError, ImageError) as error:
                return DownloadResult("rejected", reason=str(error))
            except httpx2.InvalidURL as error:
                return DownloadResult("rejected", reason=f"The link is invalid: {error}.")
            except TimeoutError:
                wait = 0.0
                reason = f"The download did not finish within {self._timeout:g} seconds."
            except httpx2.TransportError as error:
                wait, reason = 0.0, f"The connection failed ({type(error).__name__}: {error})."
            except _TransientError as error:
                wait, reason = error.wait, str(error)
                if wait > _MAX_WAIT:
                    break
        n_attempts = "1 attempt" if attempt == 0 else f"{attempt + 1} attempts"
        return DownloadResult("failed", reason=f"{reason} Gave up after {n_attempts}.")

    async def _request(self, link: str, *, attempt: int) -> bytes:
        """Request a link, follow its redirects and return the body of the response."""
        url = httpx2.URL(link)
        for _ in range(_MAX_REDIRECTS + 1):
            host = self._policy.check(url)
            address = await self._policy.address(url, attempt=attempt)
            client = self._clients[host]
            # Connecting to the address that was checked, not to the host name, keeps a second DNS
            # lookup from returning another address. The certificate is verified for the name.
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={
                    "sni_hostname": url.host,
                    "timeout": httpx2.Timeout(self._timeout).as_dict(),
                },
            )
            async with contextlib.aclosing(await client.send(request, stream=True)) as response:
                if not response.has_redirect_location:
                    return await self._body(response)
                url = url.join(response.headers["Location"])
        raise _RejectedError(f"The link redirects more than {_MAX_REDIRECTS} times.")

    async def _body(self, response: httpx2.Response) -> bytes:
        """Read the body of a response up to the size limit."""
        reason = f"The server responded with status {response.status_code}."
        if response.status_code in _NOT_FOUND:
            raise _MissingError(reason)
        if response.status_code in _RETRYABLE:
            raise _TransientError(reason, wait=retry_after(response.headers))
        if response.status_code != 200:
            raise _RejectedError(reason)
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._max_bytes:
                raise _RejectedError(
                    f"The response is larger than {self._max_bytes:,} bytes. "
                    "Raise images.max_bytes to allow larger files."
                )
        return bytes(content)

    def _is_complete(self, path: Path) -> bool:
        with contextlib.suppress(ImageError):
            self._check(images.read_image(path, max_bytes=self._max_bytes), str(path))
            return True
        return False

    def _check(self, content: bytes, name: str) -> None:
        images.decode_image(
            content, name=name, max_pixels=self._max_pixels, formats=images.WEB_FORMATS
        )

    def _save(self, content: bytes, link: str, path: Path) -> None:
        self._check(content, link)
        with atomic.replace_file(path) as temporary:
            temporary.write_bytes(content)


def _file_name(link: str) -> str:
    """Derive a file name from a link: its hash with its suffix, or ".img" for other suffixes."""
    suffix = PurePosixPath(link.partition("?")[0]).suffix.lower()
    name = hashlib.sha256(link.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{name}{suffix if suffix in _SUFFIXES else '.img'}"
