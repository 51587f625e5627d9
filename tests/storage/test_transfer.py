"""Folders to storage and back: a run goes on elsewhere, and a torn copy claims nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from mllm_msr.errors import DataError, RunFolderError, RunLockedError, UsageError
from mllm_msr.storage import transfer
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a finished stage and a kept response."""
    with RunFolder.open(tmp_path / "run") as opened:
        with opened.stage("first") as stage:
            stage.write_text("scores/one.txt", "text")
        opened.cache.put_many({"key": "response"})
    return tmp_path / "run"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return (tmp_path / "storage" / "run").as_uri()


def test_a_run_comes_back_as_it_was(run: Path, address: str, tmp_path: Path) -> None:
    n = transfer.push_folder(run, address)
    assert transfer.pull(address, tmp_path / "back") == n == 3
    with RunFolder.open(tmp_path / "back") as back:
        assert back.verified("scores/one.txt").read_text() == "text"
        assert back.cache.get_many(["key"]) == {"key": "response"}
    assert not list((tmp_path / "storage").rglob(".lock*"))


def test_responses_that_still_lie_in_the_log_go_along(
    run: Path, address: str, tmp_path: Path
) -> None:
    with RunFolder.open(run) as opened:
        opened.cache.put_many({"late": "response"})
        log = (run / "cache/responses.sqlite-wal").read_bytes()
        main = (run / "cache/responses.sqlite").read_bytes()
    # As a killed process leaves them.
    (run / "cache/responses.sqlite").write_bytes(main)
    (run / "cache/responses.sqlite-wal").write_bytes(log)
    transfer.push_folder(run, address)
    transfer.pull(address, tmp_path / "back")
    assert not list((tmp_path / "back/cache").glob("*-wal"))
    with RunFolder.open(tmp_path / "back") as back:
        assert back.cache.get_many(["late"]) == {"late": "response"}


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_torn_copy_claims_nothing(
    way: str, run: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = tmp_path / "back"
    transfer.push_folder(run, address)
    transfer.pull(address, back)
    copy, left = fs.copy_files, [1]

    def torn(*arguments: object, **more: object) -> None:
        if not left:
            raise OSError("the line is dead")
        left.pop()
        copy(*arguments, **more)

    monkeypatch.setattr(transfer.fs, "copy_files", torn)
    with pytest.raises(DataError, match="the line is dead: check the address"):
        transfer.push_folder(run, address) if way == "push" else transfer.pull(address, back)
    claimed = tmp_path / ("storage/run" if way == "push" else "back") / "manifest.json"
    assert not claimed.exists()
    if way == "pull":
        with RunFolder.open(back) as torn_run, pytest.raises(RunFolderError, match="no stage"):
            torn_run.verified("scores/one.txt")


def test_a_run_at_work_is_not_pushed(run: Path, address: str, tmp_path: Path) -> None:
    with RunFolder.open(run), pytest.raises(RunLockedError, match="works"):
        transfer.push_folder(run, address)
    assert not (tmp_path / "storage").exists()


def test_any_folder_can_travel(address: str, tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/items.csv").write_text("a")
    (tmp_path / "data/images/1.png").write_bytes(b"b")
    assert transfer.push_folder(tmp_path / "data", address) == 2
    assert transfer.pull(address, tmp_path / "back") == 2
    assert (tmp_path / "back/images/1.png").read_bytes() == b"b"


def test_what_cannot_be_is_said(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match=r"files below file:.*, received none"):
        transfer.pull(address, tmp_path / "back")
    with pytest.raises(UsageError, match="received odd://bucket/run"):
        transfer.pull("odd://bucket/run", tmp_path / "back")
    with pytest.raises(DataError, match="a folder to push"):
        transfer.push_folder(tmp_path / "nothing", address)
