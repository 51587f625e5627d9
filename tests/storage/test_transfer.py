"""Transfer: folders survive a round trip, and interrupted copies have no finished stages."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from mllm_msr.errors import DataError, RunFolderError, RunLockedError, UsageError
from mllm_msr.storage import transfer
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run folder with a finished stage and a cached response."""
    with RunFolder.open(tmp_path / "run") as opened:
        with opened.stage("first") as stage:
            stage.write_text("scores/one.txt", "text")
        opened.cache.put_many({"key": "response"})
    return tmp_path / "run"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return (tmp_path / "storage" / "run").as_uri()


def test_a_run_survives_a_round_trip(run: Path, address: str, tmp_path: Path) -> None:
    n = transfer.push_folder(run, address)
    assert transfer.pull(address, tmp_path / "back") == n == 3
    with RunFolder.open(tmp_path / "back") as back:
        assert back.verified("scores/one.txt").read_text() == "text"
        assert back.cache.get_many(["key"]) == {"key": "response"}
    assert not list((tmp_path / "storage").rglob(".lock*"))


def test_responses_in_the_log_of_sqlite_are_copied(run: Path, address: str, tmp_path: Path) -> None:
    with RunFolder.open(run) as opened:
        opened.cache.put_many({"late": "response"})
        log = (run / "cache/responses.sqlite-wal").read_bytes()
        main = (run / "cache/responses.sqlite").read_bytes()
    # The state that a killed process leaves.
    (run / "cache/responses.sqlite").write_bytes(main)
    (run / "cache/responses.sqlite-wal").write_bytes(log)
    transfer.push_folder(run, address)
    transfer.pull(address, tmp_path / "back")
    assert not list((tmp_path / "back/cache").glob("*-wal"))
    with RunFolder.open(tmp_path / "back") as back:
        assert back.cache.get_many(["late"]) == {"late": "response"}


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_an_interrupted_copy_has_no_finished_stages(
    direction: str, run: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = tmp_path / "back"
    transfer.push_folder(run, address)
    transfer.pull(address, back)
    copy, left = fs.copy_files, [1]

    def interrupted(*args: object, **kwargs: object) -> None:
        if not left:
            raise OSError("connection lost")
        left.pop()
        copy(*args, **kwargs)

    monkeypatch.setattr(transfer.fs, "copy_files", interrupted)
    with pytest.raises(DataError, match=r"connection lost\. Check the address"):
        transfer.push_folder(run, address) if direction == "push" else transfer.pull(address, back)
    manifest = tmp_path / ("storage/run" if direction == "push" else "back") / "manifest.json"
    assert not manifest.exists()
    if direction == "pull":
        with RunFolder.open(back) as opened, pytest.raises(RunFolderError, match="stages: none"):
            opened.verified("scores/one.txt")


def test_a_locked_run_is_not_pushed(run: Path, address: str, tmp_path: Path) -> None:
    with RunFolder.open(run), pytest.raises(RunLockedError, match="in use by process"):
        transfer.push_folder(run, address)
    assert not (tmp_path / "storage").exists()


def test_any_folder_can_be_transferred(address: str, tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/items.csv").write_text("a")
    (tmp_path / "data/images/1.png").write_bytes(b"b")
    assert transfer.push_folder(tmp_path / "data", address) == 2
    assert transfer.pull(address, tmp_path / "back") == 2
    assert (tmp_path / "back/images/1.png").read_bytes() == b"b"


def test_images_are_pushed_once_and_links_outside_are_refused(
    run: Path, address: str, tmp_path: Path
) -> None:
    (run / "images").mkdir()
    (run / "images/sha256-a.png").write_bytes(b"image")
    (run / "cache/downloads").mkdir(parents=True)
    (run / "cache/downloads/a.png").hardlink_to(run / "images/sha256-a.png")
    transfer.push_folder(run, address)
    transfer.pull(address, tmp_path / "back")
    assert (tmp_path / "back/images/sha256-a.png").read_bytes() == b"image"
    assert not (tmp_path / "back/cache/downloads").exists()
    (tmp_path / "secret").write_text("secret")
    (run / "images/sha256-b.png").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"images/sha256-b\.png in .* is a link to .*secret"):
        transfer.push_folder(run, address)


def test_missing_folders_and_unknown_addresses_are_readable_errors(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(DataError, match=r"There are no files below file:"):
        transfer.pull(address, tmp_path / "back")
    with pytest.raises(UsageError, match="odd://bucket/run is not an address of object storage"):
        transfer.pull("odd://bucket/run", tmp_path / "back")
    with pytest.raises(DataError, match=r"There is no folder .*nothing to push"):
        transfer.push_folder(tmp_path / "nothing", address)


def test_only_the_owner_can_read_a_pulled_run(tmp_path: Path) -> None:
    (tmp_path / "storage" / "scores").mkdir(parents=True)
    (tmp_path / "storage" / "scores" / "a.parquet").write_bytes(b"123")
    (tmp_path / "storage" / "config.yaml").write_text("k: 5\n")
    transfer.pull((tmp_path / "storage").as_uri(), tmp_path / "back" / "run")
    for path in (tmp_path / "back", *(tmp_path / "back").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_run_in_use_is_not_replaced(run: Path, address: str) -> None:
    transfer.push_folder(run, address)
    with RunFolder.open(run) as opened:
        with pytest.raises(RunLockedError, match="in use by process"):
            transfer.pull(address, run)
        assert list(opened.stages) == ["first"]
    assert transfer.pull(address, run) == 3


def test_the_log_of_a_replaced_database_is_removed(run: Path, address: str, tmp_path: Path) -> None:
    transfer.push_folder(run, address)
    with RunFolder.open(run) as opened:
        opened.cache.put_many({"key": "later", "late": "response"})
        log = (run / "cache/responses.sqlite-wal").read_bytes()
    (run / "cache/responses.sqlite-wal").write_bytes(log)  # as a killed process leaves it
    transfer.pull(address, run)
    with RunFolder.open(run) as opened:
        assert opened.cache.get_many(["key", "late"]) == {"key": "response"}
