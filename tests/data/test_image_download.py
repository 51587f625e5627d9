"""Downloads against a real HTTP server on loopback: what is kept, refused and tried again."""

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
from mllm_msr.data.image_download import Gate, fetch_images, is_public
from mllm_msr.errors import DataError, RunFolderError


def image(colour: str = "red", form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, form)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Each path is a behaviour; the server counts what was asked for."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        self.server.hosts.add(self.headers["Host"])
        kind, _, argument = self.path.strip("/").partition("/")
        getattr(self, f"give_{kind.partition('.')[0]}")(argument)

    def give_image(self, colour: str) -> None:
        self.response(200, image(colour.partition(".")[0] or "red"))

    def give_html(self, _: str) -> None:
        self.response(200, b"<!DOCTYPE html><p>Please log in</p>")

    def give_status(self, code: str) -> None:
        self.response(int(code), b"")

    def give_flaky(self, argument: str) -> None:
        """503 twice, with the argument as Retry-After; then the image."""
        if self.server.asked[self.path] <= 2:
            after = {"date": formatdate(time.time() + 1, usegmt=True), "": "0"}
            self.response(503, b"", **{"Retry-After": after.get(argument, argument)})
        else:
            self.give_image("")

    def give_torn(self, _: str) -> None:
        """Announces more than it sends, the first time."""
        content = image()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if self.server.asked[self.path] > 1 else content[:100])

    def give_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(1_000):
            self.wfile.write(b"x" * 10_000)

    def give_slow(self, _: str) -> None:
        """A header line every tenth of a second, for ever: no single read takes long."""
        self.send_response(200)
        self.flush_headers()
        while not self.server.stopping.wait(0.1):
            self.wfile.write(b"X-Patience: more\r\n")

    def give_redirect(self, target: str) -> None:
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
        self.asked: Counter[str] = Counter()
        self.hosts: set[str] = set()
        self.stopping = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests."""


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


def loopback(server: Server, **changes: object) -> Gate:
    """A gate to the test server under a name that no system resolves."""
    port = server.server_port
    settings = {
        "hosts": frozenset({f"images.test:{port}", f"inside.test:{port}"}),
        "scheme": "http",
        "resolver": lambda host, _: ["127.0.0.1" if host == "images.test" else "127.0.0.2"],
        "admits": lambda address: address == "127.0.0.1",
    }
    return Gate(**{**settings, **changes})  # type: ignore[arg-type]


def fetch(server: Server, folder: Path, *paths: str | None, **changes: object) -> pl.DataFrame:
    base = f"http://images.test:{server.server_port}/"
    urls = [None if path is None else path if ":" in path else base + path for path in paths]
    frame = pl.DataFrame({"item_id": [str(n) for n in range(len(urls))], "url": urls})
    settings = {"allowed_hosts": (), "gate": loopback(server), "backoff": 0.01, "timeout": 10.0}
    return fetch_images(frame, folder, **{**settings, **changes})  # type: ignore[arg-type]


def only(table: pl.DataFrame) -> tuple[str, str]:
    assert table.height == 1
    return table["status"][0], table["reason"][0]


def test_images_arrive_in_the_order_of_the_items(server: Server, tmp_path: Path) -> None:
    table = fetch(server, tmp_path, "image/blue.jpg", None, "image/red", "image/blue.jpg")
    assert table["item_id"].to_list() == ["0", "1", "2", "3"]
    assert table["status"].to_list() == ["ok", "missing", "ok", "ok"]
    assert table["image"][0] == table["image"][3]
    assert Path(table["image"][0]).suffix == ".jpg"
    assert Path(table["image"][2]).read_bytes() == image("red")
    assert server.asked == {"/image/blue.jpg": 1, "/image/red": 1}
    assert server.hosts == {f"images.test:{server.server_port}"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_second_run_fetches_only_what_is_missing_or_broken(
    server: Server, tmp_path: Path
) -> None:
    table = fetch(server, tmp_path, "image/blue", "image/red")
    Path(table["image"][0]).write_bytes(image("blue")[:300])
    again = fetch(server, tmp_path, "image/blue", "image/red", "image/lime")
    assert again["status"].to_list() == ["ok"] * 3
    assert server.asked == {"/image/blue": 2, "/image/red": 1, "/image/lime": 1}
    assert images.image_status(Path(again["image"][0])).status == "ok"


def test_no_items_are_no_work(server: Server, tmp_path: Path) -> None:
    table = fetch(server, tmp_path)
    assert table.schema == dict.fromkeys(["item_id", "image", "status", "reason"], pl.String())


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("html", "refused", r"/html with a web page \(HTML\) in it"),
        ("status/404", "missing", "the server answers 404"),
        ("status/410", "missing", "the server answers 410"),
        ("status/403", "refused", "the server answers 403"),
        ("redirect/loop", "refused", "more than 5 redirects"),
        ("redirect/elsewhere", "refused", r"the host elsewhere\.test is not one of those allowed"),
        ("redirect/file", "refused", "file:/+etc/passwd is no http link"),
        ("redirect/inside", "refused", r"inside\.test has the address 127\.0\.0\.2, not public"),
        ("endless", "refused", "more than 100,000 bytes"),
        ("https://images.test/image", "refused", "is no http link"),
        ("ftp://user:secret@images.test/image", "refused", "a user name or password"),
        ("http://images.test/image", "refused", r"the host images\.test is not one of"),
        ("http://images.test:port/image", "refused", "Invalid port"),
        ("data:image/png;base64,AAAA", "refused", "is no http link"),
    ],
)
def test_what_is_not_allowed_or_no_image_is_refused_once(
    server: Server, tmp_path: Path, path: str, status: str, reason: str
) -> None:
    table = fetch(server, tmp_path / "new", path, max_bytes=100_000)
    assert only(table)[0] == status
    assert table.filter(pl.col("reason").str.contains(reason)).height == 1, table["reason"][0]
    assert "secret" not in table["reason"][0]
    assert all(count == 1 for count in server.asked.values()) or "loop" in path
    assert not list(tmp_path.rglob("*.*"))


def test_redirects_that_are_allowed_are_followed(server: Server, tmp_path: Path) -> None:
    assert only(fetch(server, tmp_path, "redirect/image"))[0] == "ok"


@pytest.mark.parametrize("path", ["flaky", "torn"])
def test_trouble_that_passes_is_tried_again(server: Server, tmp_path: Path, path: str) -> None:
    assert only(fetch(server, tmp_path, path)) == ("ok", "")
    assert server.asked[f"/{path}"] == (3 if path == "flaky" else 2)


@pytest.mark.parametrize(("after", "least"), [("0.3", 0.6), ("date", 0.1)])
def test_the_servers_retry_after_is_kept(
    server: Server, tmp_path: Path, after: str, least: float
) -> None:
    started = time.monotonic()
    assert only(fetch(server, tmp_path, f"flaky/{after}"))[0] == "ok"
    assert time.monotonic() - started >= least


def test_a_server_that_asks_for_too_much_patience_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    status, reason = only(fetch(server, tmp_path, "flaky/100000"))
    assert status == "failed"
    assert reason == "the server answers 503 (attempt 1 was the last)"


def test_attempts_are_bounded(server: Server, tmp_path: Path) -> None:
    status, reason = only(fetch(server, tmp_path, "status/500", attempts=3))
    assert (status, reason) == ("failed", "the server answers 500 (attempt 3 was the last)")
    assert server.asked["/status/500"] == 3


def test_time_is_bounded_even_if_something_arrives_all_the_while(
    server: Server, tmp_path: Path
) -> None:
    started = time.monotonic()
    status, reason = only(fetch(server, tmp_path, "slow", attempts=2, timeout=0.4))
    assert (status, time.monotonic() - started < 5) == ("failed", True)
    assert reason == "not finished after 0.4 seconds (attempt 2 was the last)"


def test_a_host_without_address_or_listener_fails(server: Server, tmp_path: Path) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    gate = loopback(server, resolver=unknown)
    status, reason = only(fetch(server, tmp_path, "image", gate=gate, attempts=2))
    assert status == "failed"
    assert "the host images.test has no address" in reason
    server.socket.close()
    status, reason = only(fetch(server, tmp_path, "image", attempts=2))
    assert (status, reason.split(":")[0]) == ("failed", "ConnectError")


def test_one_address_that_is_not_public_refuses_the_host(server: Server, tmp_path: Path) -> None:
    gate = loopback(server, resolver=lambda *_: ["127.0.0.1", "10.0.0.1"])
    status, reason = only(fetch(server, tmp_path, "image", gate=gate))
    assert (status, "10.0.0.1, not public" in reason) == ("refused", True)
    assert not server.asked


def test_the_rules_without_a_gate_are_https_and_public_addresses(
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
    assert table["status"].to_list() == ["refused"] * 5
    assert table["reason"][:4].str.contains(r"has the address (127\.0\.0\.1|::1), not public").all()
    assert "is no https link" in table["reason"][4]


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


def test_the_system_resolves_every_address_once() -> None:
    found = image_download.resolve("localhost", 443)
    assert "127.0.0.1" in found or "::1" in found
    assert len(found) == len(set(found))


def test_https_is_verified_for_the_name_though_connected_by_address(
    server: Server, tmp_path: Path
) -> None:
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
    gate = loopback(
        server,
        scheme="https",
        hosts=hosts,
        ssl_context=trusted,
        resolver=lambda *_: ["127.0.0.1"],
    )
    links = [f"https://{host}/image" for host in sorted(hosts)]
    table = fetch(server, tmp_path / "new", *links, gate=gate, attempts=1, concurrency=1)
    assert table["status"].to_list() == ["ok", "failed"]
    assert "certificate is not valid for 'other.test'" in table["reason"][1]


def test_a_folder_that_cannot_be_written_stops_the_work(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="Cannot write"):
        fetch(server, tmp_path / "file", *(f"image/red.{number}" for number in range(20)))


def test_a_table_without_links_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="add url"):
        fetch_images(pl.DataFrame({"item_id": ["a"]}), tmp_path, allowed_hosts=())
