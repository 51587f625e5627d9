"""Atomic writes: files are replaced completely or not at all, and system errors are readable."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.storage import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """Make the kernel reject writes beyond 4 KiB, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_write_text_creates_missing_folders(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a" / "b.txt", "größer")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "größer"
    assert names(tmp_path / "a") == ["b.txt"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), atomic.replace_file(path) as temporary:
        temporary.write_text("new" + None)  # type: ignore[operator]
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_content_is_flushed_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        events.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name[:6])
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    folder = tmp_path / "folder"
    atomic.write_text(folder / "file", "text")
    assert events == ["fsync .file.", "rename", "fsync folder"]


@pytest.mark.usefixtures("file_size_limit")
def test_a_full_disk_is_a_readable_error_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    message = r"Cannot write .*/file: File too large\. .* MiB of free space\. Free some space"
    with pytest.raises(RunFolderError, match=message):
        atomic.write_text(path, "x" * 10_000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_errors_of_a_full_disk_state_the_free_space(tmp_path: Path, code: int) -> None:
    message = rf"{os.strerror(code)}\. .* MiB of free space"
    with pytest.raises(RunFolderError, match=message), atomic.wrap_os_errors(tmp_path / "x"):
        raise OSError(code, os.strerror(code))


def test_system_errors_that_polars_reports_as_text_are_recognized(tmp_path: Path) -> None:
    text = "parquet: underlying IO error: No space left on device (os error 28)"
    message = "No space left on device.* MiB of free space"
    with pytest.raises(RunFolderError, match=message), atomic.wrap_os_errors(tmp_path / "x"):
        raise RuntimeError(text)


def test_other_system_errors_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"Cannot write .*below.*Check the folder"):
        atomic.write_text(tmp_path / "file" / "below", "text")


def test_other_exceptions_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic.wrap_os_errors(tmp_path):
        _ = 1 / 0


def test_the_hash_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("1")
    (folder / "b").write_text("22")
    first, size = atomic.content_hash(folder)
    assert size == 3
    (folder / "b").rename(folder / "c")
    renamed, _ = atomic.content_hash(folder)
    (folder / "c").write_text("23")
    changed, _ = atomic.content_hash(folder)
    assert len({first, renamed, changed}) == 3


def test_only_our_own_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("table.parquet", ".hidden", "deep/note.tmp", "deep/.a.parquet.0f.mllm-msr-tmp"):
        (tmp_path / name).write_text("")
    assert atomic.remove_temporary_files(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        ".hidden",
        "note.tmp",
        "table.parquet",
    ]


@pytest.mark.parametrize("has_links", [True, False])
def test_link_or_copy_replaces_a_file_with_the_same_content(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_text("content")
    if not has_links:

        def refuse(path: Path, other: Path) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    for _ in range(2):
        atomic.link_or_copy(source, target)
        assert target.read_text() == "content"
        assert target.samefile(source) is has_links
    target.unlink()
    target.write_text("other")
    atomic.link_or_copy(source, target)
    assert target.read_text() == source.read_text() == "content"
    assert names(target.parent) == ["target"]
