"""Replies are kept whole, and what is damaged counts as absent."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.replies import ReplyCache, copy_replies


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "replies.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[ReplyCache]:
    cache = ReplyCache(path)
    yield cache
    cache.close()


def test_replies_come_back_by_key(cache: ReplyCache) -> None:
    cache.put_many({"a": '{"text": "größer"}', "b": "2"})
    assert cache.get_many(["b", "c", "a"]) == {"a": '{"text": "größer"}', "b": "2"}
    assert cache.get_many([]) == {}


def test_a_later_reply_replaces_an_earlier_one(cache: ReplyCache) -> None:
    cache.put_many({"a": "1"})
    cache.put_many({"a": "2"})
    assert cache.get_many(["a"]) == {"a": "2"}


def test_more_keys_than_one_query_takes(cache: ReplyCache) -> None:
    replies = {f"key {number}": str(number) for number in range(2_345)}
    cache.put_many(replies)
    assert cache.get_many(replies) == replies


def test_replies_outlive_the_process_that_never_closed(path: Path) -> None:
    first = ReplyCache(path)
    first.put_many({"a": "1"})
    second = ReplyCache(path)
    assert second.get_many(["a"]) == {"a": "1"}
    second.close()
    first.close()


def test_threads_share_it(cache: ReplyCache) -> None:
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


def test_after_closing_it_is_refused(cache: ReplyCache) -> None:
    cache.close()
    cache.close()
    with pytest.raises(RunFolderError, match="received one that is closed"):
        cache.get_many(["a"])


@pytest.mark.parametrize("damage", ["value = 'other'", "checksum = 0", "value = 5"])
def test_a_changed_row_counts_as_absent_and_can_be_stored_again(path: Path, damage: str) -> None:
    cache = ReplyCache(path)
    cache.put_many({"a": "1", "b": "2"})
    cache.close()
    database = sqlite3.connect(path)
    database.execute(f"UPDATE replies SET {damage} WHERE key = 'a'")
    database.commit()
    database.close()
    cache = ReplyCache(path)
    assert cache.get_many(["a", "b"]) == {"b": "2"}
    cache.put_many({"a": "3"})
    assert cache.get_many(["a", "b"]) == {"a": "3", "b": "2"}
    cache.close()


def test_flipped_bits_never_give_a_wrong_reply(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replies = {f"{number:064x}": f'{{"text": "reply {number}"}}' for number in range(200)}
    cache = ReplyCache(path)
    cache.put_many(replies)
    cache.close()
    sound = path.read_bytes()
    rng = random.Random(7)
    lost: list[int] = []
    with caplog.at_level(logging.CRITICAL):
        for _ in range(60):
            damaged = bytearray(sound)
            damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
            for file in path.parent.iterdir():
                file.unlink()
            path.write_bytes(damaged)
            cache = ReplyCache(path)
            found = cache.get_many(replies)
            assert found.items() <= replies.items()
            lost.append(len(replies) - len(found))
            cache.put_many(replies)
            assert cache.get_many(replies) == replies
            cache.close()
    assert sum(count > 0 for count in lost) > 20
    assert sum(count < 150 for count in lost) > 50, "a single bit rarely costs most replies"


def test_a_file_that_is_no_database_is_put_aside(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(b"no database, but long enough to be taken for one" * 100)
        cache = ReplyCache(path)
        cache.put_many({"a": "1"})
        assert cache.get_many(["a"]) == {"a": "1"}
        cache.close()
        assert path.with_name(f"replies.sqlite.damaged-{number}").stat().st_size == 4_800
    assert "kept as replies.sqlite.damaged-1, its 0 sound replies" in caplog.text


def test_a_truncated_file_is_put_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ReplyCache(path)
    cache.put_many({str(number): "x" * 500 for number in range(100)})
    cache.close()
    path.write_bytes(path.read_bytes()[: 4096 * 3])
    cache = ReplyCache(path)
    cache.get_many(str(number) for number in range(100))
    cache.put_many({"a": "1"})
    assert cache.get_many(["a"]) == {"a": "1"}
    cache.close()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="a path that can be written"):
        ReplyCache(tmp_path / "file" / "replies.sqlite")
    (tmp_path / "replies.sqlite").mkdir()
    with pytest.raises(RunFolderError, match="a path that can be written"):
        ReplyCache(tmp_path / "replies.sqlite")


def test_a_cache_in_use_is_copied_whole_and_stays_apart(path: Path, tmp_path: Path) -> None:
    cache = ReplyCache(path)
    cache.put_many({str(number): f"reply {number}" for number in range(50)})
    copied = tmp_path / "copy" / "replies.sqlite"
    copy_replies(path, copied)
    assert [file.name for file in copied.parent.iterdir()] == ["replies.sqlite"]
    other = ReplyCache(copied)
    assert len(other.get_many(str(number) for number in range(50))) == 50
    other.put_many({"new": "reply"})
    assert cache.get_many(["new"]) == {}
    other.close()
    cache.close()


def test_a_cache_that_cannot_be_copied_is_one_sentence(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no database at all" * 500)
    with pytest.raises(RunFolderError, match="cannot be copied"):
        copy_replies(path, tmp_path / "copy.sqlite")
    assert not list(tmp_path.glob("*copy*"))
