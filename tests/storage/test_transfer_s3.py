"""Transfer of run folders and datasets to S3 and back, against a server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from mllm_msr.errors import DataError
from mllm_msr.storage import transfer
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Start an empty S3 server and yield its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def address(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the address of a folder in a new bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = request.node.name.replace("_", "-")[:60].strip("-")
    storage = fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    storage.create_dir(bucket)
    return f"s3://{bucket}/runs/one?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def test_a_pulled_run_resumes(address: str, tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run") as opened:
        with opened.stage("first") as stage:
            stage.write_text("scores/one.txt", "text")
        opened.cache.put_many({"key": "response"})
    n = transfer.push_folder(tmp_path / "run", address)
    assert transfer.pull(address, tmp_path / "back") == n == 3
    with RunFolder.open(tmp_path / "back") as back:
        assert back.verified("scores/one.txt").read_text() == "text"
        assert back.cache.get_many(["key"]) == {"key": "response"}
        with back.stage("second") as stage:
            stage.write_text("scores/two.txt", "more")
    transfer.push_folder(tmp_path / "back", address)
    transfer.pull(address, tmp_path / "again")
    with RunFolder.open(tmp_path / "again") as again:
        assert set(again.stages) == {"first", "second"}


def test_a_dataset_survives_a_round_trip(address: str, tmp_path: Path) -> None:
    image = tmp_path / "data/images/1.bin"
    image.parent.mkdir(parents=True)
    image.write_bytes(bytes(range(256)) * 40_000)  # an upload of several parts
    (tmp_path / "data/interactions.csv").write_text("user,item\na,1\n")
    transfer.push_folder(tmp_path / "data", address)
    transfer.pull(address, tmp_path / "here")
    assert (tmp_path / "here/images/1.bin").read_bytes() == image.read_bytes()
    assert (tmp_path / "here/interactions.csv").read_text() == "user,item\na,1\n"


def test_a_missing_folder_is_a_readable_error(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="s3://"):
        transfer.pull(address.replace("runs/one", "runs/none"), tmp_path / "back")
    assert not (tmp_path / "back").exists()
