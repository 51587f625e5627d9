"""Artifact cache: artifacts are reused under their key, and recomputed if missing or damaged."""

from __future__ import annotations

import doctest
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.popularity import Popularity
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.storage import artifact_cache
from mllm_msr.storage.artifact_cache import ArtifactCache, Floats, digest
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

HISTORY = pl.DataFrame(
    [("u", "a", 1, 0), ("v", "b", 2, 0), ("w", "b", 3, 0)], schema=dict(INTERACTIONS), orient="row"
)
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


class Factory:
    """Factory that counts how many artifacts it computes."""

    def __init__(self) -> None:
        self.n_computed = 0

    def array(self) -> Floats:
        self.n_computed += 1
        return VALUES

    def popularity(self) -> Recommender:
        self.n_computed += 1
        data = TrainingData(HISTORY, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w"}))
        return Popularity().fit(data)


def scores(recommender: Recommender) -> list[float]:
    candidates = pl.DataFrame({"user_id": ["n", "n"], "position": [0, 0], "item_id": ["a", "b"]})
    return recommender.score(candidates, empty(INTERACTIONS))["score"].to_list()


@pytest.fixture
def factory() -> Factory:
    return Factory()


def test_an_array_is_computed_once_per_key(tmp_path: Path, factory: Factory) -> None:
    for key in ("one", "one", "other", "other", "one"):
        found = ArtifactCache(tmp_path).array("vectors", key, factory.array)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, VALUES)
    assert factory.n_computed == 3  # a name holds the artifact of one key
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.safetensors"]


def test_a_recommender_is_fitted_once_per_key(tmp_path: Path, factory: Factory) -> None:
    for key in ("one" * 9, "one" * 9, "other" * 9):
        found = ArtifactCache(tmp_path).recommender("knn", key, Popularity, factory.popularity)
        assert scores(found) == scores(factory.popularity())
    assert factory.n_computed == 2 + 3
    assert len(list((tmp_path / "knn").iterdir())) == 1


def test_without_a_folder_nothing_is_cached(factory: Factory) -> None:
    for _ in range(2):
        ArtifactCache().array("vectors", "one", factory.array)
        ArtifactCache().recommender("knn", "one", Popularity, factory.popularity)
    assert factory.n_computed == 4


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_bit, Path.unlink])
def test_a_damaged_artifact_is_computed_again(
    tmp_path: Path, factory: Factory, damage: Callable[[Path], None]
) -> None:
    for _ in range(2):
        cache = ArtifactCache(tmp_path)
        np.testing.assert_array_equal(cache.array("vectors", "one", factory.array), VALUES)
        recommender = cache.recommender("knn", "one", Popularity, factory.popularity)
        damage(tmp_path / "vectors.safetensors")
        damage(next((tmp_path / "knn" / "one").iterdir()))
    assert factory.n_computed == 4
    assert scores(recommender) == scores(factory.popularity())


def test_invalid_metadata_makes_an_artifact_invalid(tmp_path: Path, factory: Factory) -> None:
    for text in ("", "[]", json.dumps({"key": "one"})):
        ArtifactCache(tmp_path).recommender("knn", "one", Popularity, factory.popularity)
        (tmp_path / "knn.json").write_text(text, encoding="utf-8")
    assert factory.n_computed == 3


def test_an_unwritable_folder_only_logs_warnings(
    tmp_path: Path, factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()  # permissions would not stop root
    cache = ArtifactCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cache.array("vectors", "one", factory.array), VALUES)
        assert scores(cache.recommender("knn", "one", Popularity, factory.popularity))
    assert "cannot store 'vectors'; the next start computes it again" in caplog.text
    assert "cannot store 'knn'; the next start fits it again" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_key_depends_on_every_part() -> None:
    parts = {"name": "knn", "fold": 0, "rows": HISTORY}
    keys = {
        digest(**parts),
        digest(**{**parts, "fold": 1}),
        digest(**{**parts, "rows": HISTORY.reverse()}),
        digest(**{**parts, "rows": HISTORY.rename({"position": "rank"})}),
        digest(**{**parts, "more": None}),
    }
    assert len(keys) == 5
    chunked = pl.concat([HISTORY[:1], HISTORY[1:]], rechunk=False)
    assert digest(**{**parts, "rows": chunked}) == digest(**parts)


def test_docstring_examples() -> None:
    assert doctest.testmod(artifact_cache).failed == 0
