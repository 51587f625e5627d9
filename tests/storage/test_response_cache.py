"""Response cache: responses are durable, and damaged ones count as absent."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.storage.response_cache import ResponseCache, copy_responses


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "responses.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[ResponseCache]:
    cache = ResponseCache(path)
    yield cache
    cache.close()


def test_responses_are_returned_by_key(cache: ResponseCache) -> None:
    cache.put_many({"a": '{"text": "größer"}', "b": "2"})
    assert cache.get_many(["b", "c", "a"]) == {"a": '{"text": "größer"}', "b": "2"}
    assert cache.get_many([]) == {}


def test_a_later_response_replaces_an_earlier_one(cache: ResponseCache) -> None:
    cache.put_many({"a": "1"})
    cache.put_many({"a": "2"})
    assert cache.get_many(["a"]) == {"a": "2"}


def test_more_keys_than_fit_in_one_query(cache: ResponseCache) -> None:
    responses = {f"key {number}": str(number) for number in range(2_345)}
    cache.put_many(responses)
    assert cache.get_many(responses) == responses


def test_responses_survive_without_closing(path: Path) -> None:
    first = ResponseCache(path)
    first.put_many({"a": "1"})
    second = ResponseCache(path)
    assert second.get_many(["a"]) == {"a": "1"}
    second.close()
    first.close()


def test_threads_can_share_a_cache(cache: ResponseCache) -> None:
    def work(name: int) -> None:
        for number in range(20):
            cache.put_many({f"{name} {number}": "x"})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        len(cache.get_many(f"{name} {number}" for name in range(4) for number in range(20))) == 80
    )


def test_a_closed_cache_raises(cache: ResponseCache) -> None:
    cache.close()
    cache.close()
    with pytest.raises(RunFolderError, match=r"responses\.sqlite is closed"):
        cache.get_many(["a"])


@pytest.mark.parametrize("damage", ["value = 'other'", "checksum = 0", "value = 5"])
def test_a_changed_row_counts_as_absent_and_can_be_stored_again(path: Path, damage: str) -> None:
    cache = ResponseCache(path)
    cache.put_many({"a": "1", "b": "2"})
    cache.close()
    database = sqlite3.connect(path)
    database.execute(f"UPDATE responses SET {damage} WHERE key = 'a'")
    database.commit()
    database.close()
    cache = ResponseCache(path)
    assert cache.get_many(["a", "b"]) == {"b": "2"}
    cache.put_many({"a": "3"})
    assert cache.get_many(["a", "b"]) == {"a": "3", "b": "2"}
    cache.close()


def test_flipped_bits_never_return_a_wrong_response(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    responses = {f"{number:064x}": f'{{"text": "response {number}"}}' for number in range(200)}
    cache = ResponseCache(path)
    cache.put_many(responses)
    cache.close()
    intact = path.read_bytes()
    rng = random.Random(7)
    lost: list[int] = []
    with caplog.at_level(logging.CRITICAL):
        for _ in range(60):
            damaged = bytearray(intact)
            damaged[rng.randrange(len(intact))] ^= 1 << rng.randrange(8)
            for file in path.parent.iterdir():
                file.unlink()
            path.write_bytes(damaged)
            cache = ResponseCache(path)
            found = cache.get_many(responses)
            assert found.items() <= responses.items()
            lost.append(len(responses) - len(found))
            cache.put_many(responses)
            assert cache.get_many(responses) == responses
            cache.close()
    assert sum(count > 0 for count in lost) > 20
    assert sum(count < 150 for count in lost) > 50, "a single bit rarely costs most responses"


def test_a_file_that_is_not_a_database_is_moved_aside(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(b"no database, but long enough to be taken for one" * 100)
        cache = ResponseCache(path)
        cache.put_many({"a": "1"})
        assert cache.get_many(["a"]) == {"a": "1"}
        cache.close()
        assert path.with_name(f"responses.sqlite.damaged-{number}").stat().st_size == 4_800
    assert "moved it to responses.sqlite.damaged-1 and recovered 0 responses" in caplog.text


def test_a_truncated_file_is_moved_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ResponseCache(path)
    cache.put_many({str(number): "x" * 500 for number in range(100)})
    cache.close()
    path.write_bytes(path.read_bytes()[: 4096 * 3])
    cache = ResponseCache(path)
    cache.get_many(str(number) for number in range(100))
    cache.put_many({"a": "1"})
    assert cache.get_many(["a"]) == {"a": "1"}
    cache.close()


def test_a_path_that_cannot_be_written_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="Cannot write"):
        ResponseCache(tmp_path / "file" / "responses.sqlite")
    (tmp_path / "responses.sqlite").mkdir()
    with pytest.raises(RunFolderError, match="Cannot write"):
        ResponseCache(tmp_path / "responses.sqlite")


def test_the_copy_of_an_open_cache_is_complete_and_independent(path: Path, tmp_path: Path) -> None:
    cache = ResponseCache(path)
    cache.put_many({str(number): f"response {number}" for number in range(50)})
    copied = tmp_path / "copy" / "responses.sqlite"
    copy_responses(path, copied)
    assert [file.name for file in copied.parent.iterdir()] == ["responses.sqlite"]
    other = ResponseCache(copied)
    assert len(other.get_many(str(number) for number in range(50))) == 50
    other.put_many({"new": "response"})
    assert cache.get_many(["new"]) == {}
    other.close()
    cache.close()


def test_a_cache_that_cannot_be_copied_is_a_readable_error(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no database at all" * 500)
    with pytest.raises(RunFolderError, match="cannot be copied"):
        copy_responses(path, tmp_path / "copy.sqlite")
    assert not list(tmp_path.glob("*copy*"))
