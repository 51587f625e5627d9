"""Verification: hashes are computed once per content, and checked JSON notices every change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mllm_msr.storage import verification


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of paths whose content was hashed; files count as settled at once."""
    paths: list[Path] = []
    original = verification.content_hash

    def record(path: Path) -> tuple[str, int]:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(verification, "content_hash", record)
    monkeypatch.setattr(verification, "_SETTLED_AFTER", -(10**12))
    return paths


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, hashed: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"123")
    first = verification.known_hash(path)
    assert verification.known_hash(path) == first
    assert len(hashed) == 1


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path, hashed: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"123")
    first = verification.known_hash(path)
    before = path.stat()
    path.write_bytes(b"124")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verification.known_hash(path) != first
    assert len(hashed) == 2


def test_every_file_of_a_folder_counts(tmp_path: Path, hashed: list[Path]) -> None:
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_bytes(b"123")
    first = verification.known_hash(folder)
    assert verification.known_hash(folder) == first
    (folder / "sub" / "weights").write_bytes(b"1234")
    second = verification.known_hash(folder)
    (folder / "more").write_bytes(b"")
    assert len({first, second, verification.known_hash(folder)}) == 3
    assert len(hashed) == 3


def test_a_file_that_was_just_written_is_hashed_again(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_SETTLED_AFTER", 10**12)
    path = tmp_path / "weights"
    path.write_bytes(b"123")
    verification.known_hash(path)
    verification.known_hash(path)
    assert len(hashed) == 2


def test_damage_is_described(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"123")
    sha256, size = verification.content_hash(path)
    assert verification.find_damage(path, sha256=sha256, size=size) is None
    path.write_bytes(b"1234")
    message = verification.find_damage(path, sha256=sha256, size=size)
    assert message is not None
    assert f"{path} has 4 bytes" in message
    assert f"instead of 3 bytes with SHA-256 {sha256[:12]}..." in message
    path.unlink()
    message = verification.find_damage(path, sha256=sha256, size=size)
    assert message == f"{path} cannot be read (No such file or directory)"


def test_a_pipe_is_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    damage = verification.find_damage(tmp_path / "pipe", sha256="0", size=0)
    assert damage == f"{tmp_path / 'pipe'} cannot be read (not a regular file)"


def test_checked_json_is_read_back() -> None:
    content = {"name": "größer", "values": [1, 0.1, None, float("inf")], "nested": {"b": 1, "a": 2}}
    text = verification.dump(content)
    assert json.loads(text)["name"] == "größer"
    assert verification.parse(text) == content


@pytest.mark.parametrize(
    ("old", "new"), [('"k": 5', '"k": 6'), ('"k"', '"j"'), ("}", ""), ('"checksum": "', '"')]
)
def test_changed_json_is_rejected(old: str, new: str) -> None:
    text = verification.dump({"k": 5})
    assert old in text
    with pytest.raises(ValueError, match=r"checksum|Expecting|delimiter"):
        verification.parse(text.replace(old, new))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{}"])
def test_other_json_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="does not match its checksum"):
        verification.parse(text)


def test_json_that_is_nested_too_deeply_is_not_json() -> None:
    for read in (verification.parse, verification.load_json):
        with pytest.raises(ValueError, match="nested too deeply"):
            read('{"a":' * 100_000)
