"""The cached checkpoint is complete or absent, repaired, and assembled by one process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.errors import BackendError, RunFolderError
from mllm_msr.models.small import cache

SCRIPT = Path(__file__).with_name("assemble_slowly.py")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the cache, which is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "require_packages", lambda: None)
    return tmp_path / "mllm-msr" / "smollm"


@pytest.fixture
def assembled(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the assembly by one of a few bytes, and return the list of its calls."""
    calls: list[int] = []

    def assemble(folder: Path, *, image_grid: int) -> None:
        calls.append(image_grid)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights" * image_grid)

    monkeypatch.setattr(cache, "assemble", assemble)
    return calls


def start(home: Path, log: Path, *mode: str) -> subprocess.Popen[str]:
    """Start a process that opens the model."""
    command = [sys.executable, str(SCRIPT), str(home.parents[1]), str(log), *mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def leftovers(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name.endswith("tmp")]


def test_the_model_is_assembled_once(home: Path, assembled: list[int]) -> None:
    folder = cache.small_checkpoint(4)
    assert folder.parent == home
    assert cache.is_intact(folder)
    assert cache.small_checkpoint(4) == folder
    assert cache.small_checkpoint(7) != folder
    assert assembled == [4, 7]
    assert leftovers(home) == []


def test_an_assembled_model_needs_no_packages(
    home: Path, assembled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise BackendError("a package is missing")

    folder = cache.small_checkpoint(4)
    monkeypatch.setattr(cache, "require_packages", refuse)
    assert cache.small_checkpoint(4) == folder
    with pytest.raises(BackendError, match="a package is missing"):
        cache.small_checkpoint(5)
    assert [path.name for path in home.iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"weightX" * 4), id="other bytes"),
        pytest.param(lambda path: path.write_bytes(b"weig"), id="cut"),
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: path.with_name("checkpoint.sha256").unlink(), id="no digest"),
    ],
)
def test_a_damaged_model_is_assembled_again(
    damage: Callable[[Path], Any],
    home: Path,
    assembled: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = cache.small_checkpoint(4)
    damage(folder / "model.safetensors")
    assert not cache.is_intact(folder)
    caplog.clear()
    assert cache.small_checkpoint(4) == folder
    assert "is damaged. It is assembled again" in caplog.text
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 4
    assert assembled == [4, 4]
    assert leftovers(home) == []


def test_a_failed_assembly_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, *, image_grid: int) -> None:
        (folder / "config.json").write_text("{}")
        raise BackendError("the file is damaged")

    monkeypatch.setattr(cache, "assemble", fail)
    with pytest.raises(BackendError, match="the file is damaged"):
        cache.small_checkpoint(4)
    assert [path for path in home.iterdir() if path.is_dir()] == []


def test_a_killed_assembly_is_repeated(home: Path, assembled: list[int], tmp_path: Path) -> None:
    killed = start(home, tmp_path / "log", "die")
    killed.communicate()
    assert killed.returncode == -9
    assert len(leftovers(home)) == 1
    folder = cache.checkpoint_path(4)
    assert not folder.exists()
    assert cache.small_checkpoint(4) == folder
    assert assembled == [4]
    assert leftovers(home) == []


def test_of_two_processes_one_assembles_and_the_other_waits(home: Path, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    first = start(home, log, "wait", str(go))
    while not log.exists() and first.poll() is None:
        time.sleep(0.05)
    second = start(home, log, "now")
    assert second.stderr is not None
    waits = next(line for line in second.stderr if "process" in line or "Error" in line)
    go.touch()
    folders = [process.communicate()[0].strip() for process in (first, second)]
    assert "Waiting for another process" in waits
    assert folders == [str(cache.checkpoint_path(4))] * 2
    assert log.read_text(encoding="utf-8") == f"{first.pid}\n"


def test_threads_of_one_process_assemble_it_once(home: Path, assembled: list[int]) -> None:
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(cache.small_checkpoint(4))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert assembled == [4]
    assert set(folders) == {cache.checkpoint_path(4)}


def test_another_projector_or_recipe_is_another_checkpoint(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {cache.checkpoint_path(4)}
    for content in (b"one", b"two"):
        projector = tmp_path / "projector.safetensors"
        projector.write_bytes(content)
        monkeypatch.setattr(cache, "PROJECTOR", projector)
        paths.add(cache.checkpoint_path(4))
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    paths.add(cache.checkpoint_path(4))
    assert len(paths) == 4


def test_a_cache_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "require_packages", lambda: None)
    with pytest.raises(RunFolderError, match=r"Cannot write .*file"):
        cache.small_checkpoint(4)
