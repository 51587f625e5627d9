"""Tests for the database connection: URLs, hidden passwords, exclusive use of a file."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from mllm_msr.errors import MllmMsrError, RunFolderError, RunLockedError, SettingsError
from mllm_msr.serving.database import Database, hide_secrets, parse_url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "is not the URL of an SQLite file or a PostgreSQL database"),
        ("not-a-url", "is not the URL of an SQLite file or a PostgreSQL database"),
        ("state.sqlite", "is not the URL of an SQLite file or a PostgreSQL database"),
        ("mysql://user:hunter2@host/shop", "is not the URL of an SQLite file or a PostgreSQL"),
        ("postgresql+psycopg2://user:hunter2@host/shop", "is not the URL of an SQLite file"),
        ("postgresql://user:hunter2@host:port/shop", "is not the URL of an SQLite file"),
        ("postgresql://user:hun@ter2@host:port/shop", "is not the URL of an SQLite file"),
        ("user:hunter2@host", "is not the URL of an SQLite file"),
        ("sqlite://", "names no file, so that all events would be lost"),
        ("sqlite:///:memory:", "names no file, so that all events would be lost"),
        ("sqlite:///file:x?mode=memory&uri=true", "is not the URL of a file"),
        ("sqlite:///state.sqlite?key=hunter2", "is not the URL of a file"),
        ("sqlite://host/state.sqlite", "is not the URL of a file"),
        ("sqlite:///a\0b", "is not the URL of a file"),
    ],
)
def test_unusable_url_is_one_error_without_secrets(url: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    message = str(caught.value)
    assert message.startswith("serve.state=")
    assert problem in message
    assert message.endswith("or postgresql+psycopg://user:password@host/database.")
    assert "ter2" not in message


def test_secrets_of_a_url_are_hidden() -> None:
    assert hide_secrets("postgresql://u:p:w@x@host/db?a=b") == "postgresql://***@host/db?***"
    assert hide_secrets("u:p@host") == "***@host"
    assert hide_secrets("not-a-url") == "not-a-url"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:hunter2@127.0.0.1:1/shop",
        "postgresql://user:hunter%402@127.0.0.1:1/shop",
        "postgresql://user@127.0.0.1:1/shop?password=hunter2",
        "postgresql://user:x@127.0.0.1:1/shop?options=hunter2&bad=hunter2",
    ],
)
def test_password_is_not_in_the_error_of_an_unreachable_server(url: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(MllmMsrError, match=r"The service's database postgresql\+psycopg") as caught:
        Database(parse_url(url))
    assert "hunter" not in str(caught.value)


def test_file_is_private_and_new_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "state.sqlite"
    database = Database(parse_url(f"sqlite:///{path}"))
    for name in ("state.sqlite", "state.sqlite-wal"):
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600
    database.close()


def test_other_paths_to_the_same_file_are_locked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.sqlite"
    database = Database(parse_url(f"sqlite:///{path}"))
    (tmp_path / "link.sqlite").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for other in ("link.sqlite", f"{tmp_path}/folder/state.sqlite", f"{tmp_path}/x/../link.sqlite"):
        with pytest.raises(RunLockedError, match=f"is in use by process {os.getpid()}"):
            Database(parse_url(f"sqlite:///{other}"))
    database.close()
    os.link(path, tmp_path / "second.sqlite")
    with pytest.raises(RunFolderError, match="several names"):
        Database(parse_url(f"sqlite:///{tmp_path / 'second.sqlite'}"))
    (tmp_path / "second.sqlite").unlink()
    Database(parse_url("sqlite:///link.sqlite")).close()


def test_replaced_link_to_the_database_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "state.sqlite")
    database = Database(parse_url(f"sqlite:///{tmp_path / 'link.sqlite'}"))
    database.check_identity()
    (tmp_path / "link.sqlite").unlink()
    sqlite3.connect(tmp_path / "link.sqlite").close()
    with pytest.raises(RunFolderError, match=r"link\.sqlite.*was moved, replaced or deleted"):
        database.check_identity()
    database.close()


def test_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is a folder"):
        Database(parse_url(f"sqlite:///{tmp_path}"))
    assert list(tmp_path.parent.glob(f"{tmp_path.name}.lock*")) == []


def test_messages_contain_no_data_of_users(tmp_path: Path) -> None:
    database = Database(parse_url(f"sqlite:///{tmp_path / 'state.sqlite'}"))
    with pytest.raises(RunFolderError) as caught, database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO missing VALUES (?)", ("person@example.org",))
    assert "no such table" in str(caught.value)
    assert "person@" not in str(caught.value) + str(caught.value.__cause__)
    database.close()
