"""`update`: adds new interactions to a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def news(run: Path, tmp_path: Path) -> Path:
    """Return a file with a new interaction of a known user, a known one, and an unknown item."""
    known = pl.read_parquet(run / "interactions.parquet")
    history = known.filter(pl.col("user_id") == "user0")
    fresh = min(set(known["item_id"]) - set(history["item_id"]))
    file = tmp_path / "new.csv"
    file.write_text(
        f"user_id,item_id,timestamp\nuser0,{fresh},999999\nuser0,{history['item_id'][0]},999999\n"
        f"user0,other,999999\n"
    )
    return file


def test_the_same_interactions_are_only_added_once(invoke, run: Path, news: Path) -> None:
    done = invoke("update", news, "--run", run, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert (counts["interactions"], counts["users"], counts["new_users"]) == (1, 1, 0)
    again = json.loads(invoke("update", news, "--run", run, "--json").stdout)
    assert (again["interactions"], again["known"]) == (0, 2)


def test_the_result_is_described_in_sentences(invoke, run: Path, news: Path) -> None:
    done = invoke("update", news, "--run", run)
    assert done.stdout.splitlines() == [
        "Added 1 interaction of 1 user and updated their preferences.",
        "Ignored 1 interaction that the run already contains.",
        (
            "Ignored 1 interaction with items that the run does not contain. A new run can include "
            "them."
        ),
    ]
