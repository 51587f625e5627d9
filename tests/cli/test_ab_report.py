"""`ab-report`: tables, JSON, and the database that it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.state import NewEvent, ServiceState


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a run whose service has shown items to users of two variants."""
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    (copy / "service").mkdir()
    fill(copy / "service" / "state.sqlite")
    return copy


def fill(database: Path | str) -> None:
    """Write lists and events of eight users into a database."""
    state = ServiceState(database)
    for user in range(8):
        state.exposures.add("budget", "ab"[user % 2], f"u{user}", ["item1", "item2"])
    state.add_events([NewEvent("1", "u1", "item1"), NewEvent("2", "u3", "item2")])
    state.close()


def test_tables_have_the_variants_and_their_difference(invoke, run: Path) -> None:
    done = invoke("ab-report", "--run", run)
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "test budget" in words
    assert "a 4 8 0 0.000 (0.000 to 0.490) 0.000 (0.000 to 0.000)" in words
    assert "b 4 8 2 0.500 (0.150 to 0.850)" in words
    assert "b - a +0.500 (" in words


def test_json_has_the_same(invoke, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "other.sqlite"
    (run / "service" / "state.sqlite").rename(moved)
    done = invoke("ab-report", "--run", run, "--json", f"serve.state=sqlite:///{moved}")
    found = json.loads(done.stdout)
    assert found["variants"]["b"]["converted"] == 2
    assert found["differences"][0]["conversion"]["value"] == 0.5


def test_database_of_postgresql_gives_the_same_report(
    invoke, run: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    fill(url)
    found = invoke("ab-report", "--run", run, "--json", f"serve.state={url}")
    assert found.exit_code == 0, found.output
    assert found.stdout == invoke("ab-report", "--run", run, "--json").stdout


def test_run_without_a_service_is_an_error(fail, finished: Path) -> None:
    with pytest.raises(RunFolderError, match="There is no database"):
        fail("ab-report", "--run", finished)
