"""Image downloads from a real HTTP server on the loopback interface."""

from __future__ import annotations

import io
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_msr.data import image_download, images
from mllm_msr.data.image_download import AccessPolicy, fetch_images, is_public
from mllm_msr.errors import DataError, RunFolderError


def image(color: str = "red", image_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(buffer, image_format)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Request handler that selects its behavior by path; the server counts requests by path."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.server.hosts.add(self.headers["Host"])
        self.server.encodings.add(self.headers["Accept-Encoding"])
        kind, _, argument = self.path.strip("/").partition("/")
        getattr(self, f"send_{kind.partition('.')[0]}")(argument)

    def send_image(self, color: str) -> None:
        self.response(200, image(color.partition(".")[0] or "red"))

    def send_html(self, _: str) -> None:
        self.response(200, b"<!DOCTYPE html><p>Please log in</p>")

    def send_status(self, code: str) -> None:
        self.response(int(code), b"")

    def send_flaky(self, argument: str) -> None:
        """Send 503 twice, with the argument as Retry-After, then the image."""
        if self.server.requests[self.path] <= 2:
            after = {"date": formatdate(time.time() + 1, usegmt=True), "": "0"}
            self.response(503, b"", **{"Retry-After": after.get(argument, argument)})
        else:
            self.send_image("")

    def send_truncated(self, _: str) -> None:
        """Send less than Content-Length on the first request."""
        content = image()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if self.server.requests[self.path] > 1 else content[:100])

    def send_huge(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(1_000):
            self.wfile.write(b"x" * 10_000)

    def send_slow(self, _: str) -> None:
        """Send a header line every tenth of a second, so that no single read times out."""
        self.send_response(200)
        self.flush_headers()
        while not self.server.stopping.wait(0.1):
            self.wfile.write(b"X-Wait: more\r\n")

    def send_redirect(self, target: str) -> None:
        location = {
            "loop": "/redirect/loop",
            "elsewhere": "http://elsewhere.test/image",
            "file": "file:///etc/passwd",
            "inside": f"http://inside.test:{self.server.server_port}/image",
        }.get(target, f"/{target}")
        self.response(302, b"", Location=location)

    def response(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: Counter[str] = Counter()
        self.hosts: set[str] = set()
        self.encodings: set[str] = set()
        self.stopping = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect, as some tests do."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


def loopback(server: Server, **changes: object) -> AccessPolicy:
    """Return a policy that allows the test server, under a name that no system resolves."""
    port = server.server_port
    settings = {
        "hosts": frozenset({f"images.test:{port}", f"inside.test:{port}"}),
        "scheme": "http",
        "resolver": lambda host, _: ["127.0.0.1" if host == "images.test" else "127.0.0.2"],
        "is_allowed": lambda address: address == "127.0.0.1",
    }
    return AccessPolicy(**{**settings, **changes})  # type: ignore[arg-type]


def fetch(server: Server, folder: Path, *paths: str | None, **changes: object) -> pl.DataFrame:
    base = f"http://images.test:{server.server_port}/"
    urls = [None if path is None else path if ":" in path else base + path for path in paths]
    frame = pl.DataFrame({"item_id": [str(n) for n in range(len(urls))], "url": urls})
    settings = {"allowed_hosts": (), "policy": loopback(server), "backoff": 0.01, "timeout": 10.0}
    return fetch_images(frame, folder, **{**settings, **changes})  # type: ignore[arg-type]


def single_result(table: pl.DataFrame) -> tuple[str, str]:
    assert table.height == 1
    return table["status"][0], table["reason"][0]


def test_results_have_the_order_of_the_items(server: Server, tmp_path: Path) -> None:
    table = fetch(server, tmp_path, "image/blue.jpg", None, "image/red", "image/blue.jpg")
    assert table["item_id"].to_list() == ["0", "1", "2", "3"]
    assert table["status"].to_list() == ["ok", "missing", "ok", "ok"]
    assert table["image"][0] == table["image"][3]
    assert Path(table["image"][0]).suffix == ".jpg"
    assert Path(table["image"][2]).read_bytes() == image("red")
    assert server.requests == {"/image/blue.jpg": 1, "/image/red": 1}
    assert server.hosts == {f"images.test:{server.server_port}"}
    assert server.encodings == {"identity"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_second_run_downloads_only_missing_and_broken_images(
    server: Server, tmp_path: Path
) -> None:
    table = fetch(server, tmp_path, "image/blue", "image/red")
    Path(table["image"][0]).write_bytes(image("blue")[:300])
    again = fetch(server, tmp_path, "image/blue", "image/red", "image/lime")
    assert again["status"].to_list() == ["ok"] * 3
    assert server.requests == {"/image/blue": 2, "/image/red": 1, "/image/lime": 1}
    assert images.image_status(Path(again["image"][0])).status == "ok"


def test_an_empty_table_gives_an_empty_table(server: Server, tmp_path: Path) -> None:
    table = fetch(server, tmp_path)
    assert table.schema == dict.fromkeys(["item_id", "image", "status", "reason"], pl.String())


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("html", "rejected", r"/html is not a .* image: it is a web page \(HTML\)"),
        ("status/404", "missing", "responded with status 404"),
        ("status/410", "missing", "responded with status 410"),
        ("status/403", "rejected", "responded with status 403"),
        ("redirect/loop", "rejected", "redirects more than 5 times"),
        ("redirect/elsewhere", "rejected", r"host elsewhere\.test is not allowed"),
        ("redirect/file", "rejected", "file:/+etc/passwd is not an http link"),
        ("redirect/inside", "rejected", r"inside\.test resolves to 127\.0\.0\.2\."),
        ("huge", "rejected", "larger than 100,000 bytes"),
        ("https://images.test/image", "rejected", "is not an http link"),
        ("ftp://user:secret@images.test/image", "rejected", "a user name or password"),
        ("http://images.test/image", "rejected", r"host images\.test is not allowed"),
        ("http://images.test:port/image", "rejected", "link is invalid: Invalid port"),
        ("data:image/png;base64,AAAA", "rejected", "is not an http link"),
    ],
)
def test_unacceptable_links_and_content_are_rejected_without_a_retry(
    server: Server, tmp_path: Path, path: str, status: str, reason: str
) -> None:
    table = fetch(server, tmp_path / "new", path, max_bytes=100_000)
    assert single_result(table)[0] == status
    assert table.filter(pl.col("reason").str.contains(reason)).height == 1, table["reason"][0]
    assert "secret" not in table["reason"][0]
    assert all(count == 1 for count in server.requests.values()) or "loop" in path
    assert not list(tmp_path.rglob("*.*"))


def test_allowed_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    assert single_result(fetch(server, tmp_path, "redirect/image"))[0] == "ok"


@pytest.mark.parametrize("path", ["flaky", "truncated"])
def test_transient_errors_are_retried(server: Server, tmp_path: Path, path: str) -> None:
    assert single_result(fetch(server, tmp_path, path)) == ("ok", "")
    assert server.requests[f"/{path}"] == (3 if path == "flaky" else 2)


@pytest.mark.parametrize(("after", "least"), [("0.3", 0.6), ("date", 0.1)])
def test_retry_after_is_respected(server: Server, tmp_path: Path, after: str, least: float) -> None:
    started = time.monotonic()
    assert single_result(fetch(server, tmp_path, f"flaky/{after}"))[0] == "ok"
    assert time.monotonic() - started >= least


def test_a_long_retry_after_ends_the_retries(server: Server, tmp_path: Path) -> None:
    status, reason = single_result(fetch(server, tmp_path, "flaky/100000"))
    assert status == "failed"
    assert reason == "The server responded with status 503. Gave up after 1 attempt."


def test_attempts_are_limited(server: Server, tmp_path: Path) -> None:
    status, reason = single_result(fetch(server, tmp_path, "status/500", attempts=3))
    assert (status, reason) == (
        "failed",
        "The server responded with status 500. Gave up after 3 attempts.",
    )
    assert server.requests["/status/500"] == 3


def test_the_timeout_applies_to_the_whole_attempt(server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    status, reason = single_result(fetch(server, tmp_path, "slow", attempts=2, timeout=0.4))
    assert (status, time.monotonic() - started < 5) == ("failed", True)
    assert reason == "The download did not finish within 0.4 seconds. Gave up after 2 attempts."


def test_a_host_without_address_or_listener_fails(server: Server, tmp_path: Path) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    policy = loopback(server, resolver=unknown)
    status, reason = single_result(fetch(server, tmp_path, "image", policy=policy, attempts=2))
    assert status == "failed"
    assert "Cannot resolve the host images.test" in reason
    server.socket.close()
    status, reason = single_result(fetch(server, tmp_path, "image", attempts=2))
    assert (status, reason.split(":")[0]) == ("failed", "The connection failed (ConnectError")


def test_a_host_with_one_private_address_is_rejected(server: Server, tmp_path: Path) -> None:
    policy = loopback(server, resolver=lambda *_: ["127.0.0.1", "10.0.0.1"])
    status, reason = single_result(fetch(server, tmp_path, "image", policy=policy))
    assert (status, "resolves to 10.0.0.1." in reason) == ("rejected", True)
    assert not server.requests


def test_the_default_policy_requires_https_and_public_addresses(
    server: Server, tmp_path: Path
) -> None:
    hosts = ("127.1", "0x7f000001", "2130706433", "localhost")
    frame = pl.DataFrame(
        {
            "item_id": [*hosts, "http"],
            "url": [*(f"https://{host}/image" for host in hosts), "http://localhost/image"],
        }
    )
    table = fetch_images(frame, tmp_path, allowed_hosts=hosts)
    assert table["status"].to_list() == ["rejected"] * 5
    assert table["reason"][:4].str.contains(r"resolves to (127\.0\.0\.1|::1)\.").all()
    assert "is not an https link" in table["reason"][4]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::808:808",
        "2002:7f00:1::",
        "2001:0:4136:e378::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff0e::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


def test_resolve_returns_distinct_addresses() -> None:
    found = image_download.resolve("localhost", 443)
    assert "127.0.0.1" in found or "::1" in found
    assert len(found) == len(set(found))


def test_certificates_are_verified_for_the_host_name(server: Server, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=images.test -addext subjectAltName=DNS:images.test"
    )
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, key)
    server.socket = own.wrap_socket(server.socket, server_side=True)
    trusted = ssl.create_default_context(cafile=str(certificate))
    hosts = frozenset(f"{name}.test:{server.server_port}" for name in ("images", "other"))
    policy = loopback(
        server,
        scheme="https",
        hosts=hosts,
        ssl_context=trusted,
        resolver=lambda *_: ["127.0.0.1"],
    )
    links = [f"https://{host}/image" for host in sorted(hosts)]
    table = fetch(server, tmp_path / "new", *links, policy=policy, attempts=1, concurrency=1)
    assert table["status"].to_list() == ["ok", "failed"]
    assert "certificate is not valid for 'other.test'" in table["reason"][1]


def test_an_unwritable_folder_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="Cannot write"):
        fetch(server, tmp_path / "file", *(f"image/red.{number}" for number in range(20)))


def test_a_table_without_links_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks columns: url"):
        fetch_images(pl.DataFrame({"item_id": ["a"]}), tmp_path, allowed_hosts=())
