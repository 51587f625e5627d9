"""What is kept is used again under its key, and made again when it is missing or not itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.popularity import Popularity
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.storage.artifact_cache import ArtifactCache, Floats, digest
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

HISTORY = pl.DataFrame(
    [("u", "a", 1, 0), ("v", "b", 2, 0), ("w", "b", 3, 0)], schema=dict(INTERACTIONS), orient="row"
)
NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Making:
    """Makes things and counts how often."""

    def __init__(self) -> None:
        self.n_made = 0

    def array(self) -> Floats:
        self.n_made += 1
        return NUMBERS

    def popularity(self) -> Recommender:
        self.n_made += 1
        data = TrainingData(HISTORY, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w"}))
        return Popularity().fit(data)


def scores(recommender: Recommender) -> list[float]:
    asked = pl.DataFrame({"user_id": ["n", "n"], "position": [0, 0], "item_id": ["a", "b"]})
    return recommender.score(asked, empty(INTERACTIONS))["score"].to_list()


@pytest.fixture
def making() -> Making:
    return Making()


def test_numbers_are_made_once_under_a_key(tmp_path: Path, making: Making) -> None:
    for key in ("one", "one", "other", "other", "one"):
        found = ArtifactCache(tmp_path).array("vectors", key, making.array)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, NUMBERS)
    assert making.n_made == 3  # one place holds one key
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.safetensors"]


def test_a_recommender_is_fitted_once_under_a_key(tmp_path: Path, making: Making) -> None:
    for key in ("one" * 9, "one" * 9, "other" * 9):
        kept = ArtifactCache(tmp_path).recommender("knn", key, Popularity, making.popularity)
        assert scores(kept) == scores(making.popularity())
    assert making.n_made == 2 + 3
    assert len(list((tmp_path / "knn").iterdir())) == 1


def test_without_a_folder_nothing_is_kept(making: Making) -> None:
    for _ in range(2):
        ArtifactCache().array("vectors", "one", making.array)
        ArtifactCache().recommender("knn", "one", Popularity, making.popularity)
    assert making.n_made == 4


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_what_is_damaged_is_made_again(
    tmp_path: Path, making: Making, damage: Callable[[Path], None]
) -> None:
    for _ in range(2):
        kept = ArtifactCache(tmp_path)
        np.testing.assert_array_equal(kept.array("vectors", "one", making.array), NUMBERS)
        made = kept.recommender("knn", "one", Popularity, making.popularity)
        damage(tmp_path / "vectors.safetensors")
        damage(next((tmp_path / "knn" / "one").iterdir()))
    assert making.n_made == 4
    assert scores(made) == scores(making.popularity())


def test_a_note_that_cannot_be_read_counts_as_none(tmp_path: Path, making: Making) -> None:
    for text in ("", "[]", json.dumps({"key": "one"})):
        ArtifactCache(tmp_path).recommender("knn", "one", Popularity, making.popularity)
        (tmp_path / "knn.json").write_text(text, encoding="utf-8")
    assert making.n_made == 3


def test_a_folder_that_cannot_be_written_is_only_mentioned(
    tmp_path: Path, making: Making, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()  # root may write wherever there is a folder
    kept = ArtifactCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(kept.array("vectors", "one", making.array), NUMBERS)
        assert scores(kept.recommender("knn", "one", Popularity, making.popularity))
    assert caplog.text.count("again at the next start") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_key_follows_from_all_that_is_told() -> None:
    told = {"name": "knn", "fold": 0, "rows": HISTORY}
    keys = {
        digest(**told),
        digest(**{**told, "fold": 1}),
        digest(**{**told, "rows": HISTORY.reverse()}),
        digest(**{**told, "rows": HISTORY.rename({"position": "place"})}),
        digest(**{**told, "more": None}),
    }
    assert len(keys) == 5
    halves = pl.concat([HISTORY[:1], HISTORY[1:]], rechunk=False)
    assert digest(**{**told, "rows": halves}) == digest(**told)
