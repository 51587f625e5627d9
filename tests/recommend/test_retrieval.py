"""Tests for candidate generators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.errors import (
    BackendError,
    DamagedFileError,
    DataError,
    MissingExtraError,
    RunFolderError,
    TrainingError,
    UnknownNameError,
)
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Pool, Proposals, Weight
from mllm_msr.recommend.retrieval import (
    CollaborativeGenerator,
    PreferenceGenerator,
    RecentPopularityGenerator,
    Retriever,
)
from mllm_msr.recommend.vector_index import VectorIndex
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, conform, empty


def interactions(*rows: tuple[str, str, int]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    position = pl.int_range(pl.len()).over("user_id")
    return conform(frame.with_columns(position=position), INTERACTIONS, name="interactions")


def ids(proposals: Proposals) -> list[str]:
    assert len(proposals.item_ids) == len(proposals.scores)
    return list(proposals.item_ids)


WORLD = interactions(("u", "a", 1), ("u", "b", 2), ("v", "b", 3), ("w", "c", 4), ("x", "c", 5))


def test_recent_popularity_counts_the_latest_interactions_and_skips_seen_items() -> None:
    all_items = RecentPopularityGenerator(WORLD, recent_share=1.0)
    assert ids(all_items.propose(Profile("n"), 3)) == ["b", "c", "a"]
    assert ids(all_items.propose(Profile("n", ("b",)), 2)) == ["c", "a"]
    assert ids(RecentPopularityGenerator(WORLD, recent_share=0.4).propose(Profile("n"), 3)) == ["c"]
    counts = np.exp(all_items.propose(Profile("n", ("b",)), 2).scores)
    assert counts.tolist() == pytest.approx([2, 1])


def test_user_without_history_or_preference_gets_popular_items_only() -> None:
    encoder = LsaEncoder(["calm film", "loud song", "calm song"])
    index = VectorIndex(3)
    index.add(["a", "b", "c"], encoder.encode(["calm film", "loud song", "calm song"]))
    data = TrainingData(WORLD, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w", "x"}))
    retriever = Retriever(
        {
            "preference": PreferenceGenerator(encoder, index),
            "collaborative": CollaborativeGenerator(Popularity().fit(data), ["a", "b", "c"]),
            "recent": RecentPopularityGenerator(WORLD, recent_share=1.0),
        }
    )
    new = retriever.retrieve(Profile("unknown"), 5)
    assert {generator for candidate in new for generator in candidate.generators} == {"recent"}
    warm = retriever.retrieve(Profile("u", ("a", "b"), "calm songs and a calm film"), 5)
    assert [candidate.item_id for candidate in warm] == ["c"]
    assert set(warm[0].generators) == {"preference", "collaborative", "recent"}
    seen_included = retriever.retrieve(Profile("u", ("a",), "film"), 1, exclude_seen=False)
    assert len(seen_included) == 1


class WithoutCatalogScores(Recommender):
    """Recommender that wraps another one and hides its `score_catalog`."""

    def __init__(self, other: Recommender) -> None:
        self._other = other

    def fit(self, data: TrainingData) -> Self:
        raise NotImplementedError

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        return self._other.score(candidates, interactions)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError


class PartlyScored(Recommender):
    """Recommender of another package, which has no score of some items."""

    def __init__(self, known: dict[str, float | None]) -> None:
        self._known = known

    def fit(self, data: TrainingData) -> Self:
        raise NotImplementedError

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        return candidates.with_columns(
            score=pl.Series([self._known.get(item_id) for item_id in candidates["item_id"]])
        )

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError


class PartlyScoredCatalog(PartlyScored):
    """The same with scores of the full catalog, NaN for no score."""

    @property
    def catalog(self) -> list[str]:
        return list(self._known)

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, np.ndarray]]:
        scores = [np.nan if score is None else score for score in self._known.values()]
        yield users, np.array([scores] * users.height, dtype=np.float32)


@pytest.mark.parametrize("kind", [PartlyScored, PartlyScoredCatalog])
@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_items_without_a_score_are_below_all_scored_ones(
    kind: type[PartlyScored], missing: float | None
) -> None:
    known = {"a": missing, "b": -3.0, "c": missing, "d": -1.0, "e": -2.0}
    generator = CollaborativeGenerator(kind(known), list(known))
    found = generator.propose(Profile("u", ("z",)), 5)
    assert (ids(found), found.scores.tolist()) == (["d", "e", "b"], [-1.0, -2.0, -3.0])
    assert ids(generator.propose(Profile("u", ("z",)), 2)) == ["d", "e"]
    # The other generator proposes all of them, so that only the scores tell them apart.
    others = SimpleNamespace(propose=lambda *_: Proposals(list("abcde"), np.zeros(5)))
    pool = Retriever({"own": generator, "other": others}).pool(Profile("u", ("z",)))
    assert np.isfinite(pool.features).all()
    for own in (Weight(1000.0, 0.0), Weight(0.0, 1.0), Weight(1.0, 1.0)):
        candidates = pool.candidates({"own": own, "other": Weight(0.0, 0.0)})
        assert [one.item_id for one in candidates[:2]] == ["d", "e"]
        value = {one.item_id: one.relevance for one in candidates}
        assert value["a"] == value["c"] == 0.0 <= value["b"]
        assert all(("own" in one.generators) == (one.item_id in "bde") for one in candidates)


@pytest.mark.parametrize("kind", [PartlyScored, PartlyScoredCatalog])
def test_a_user_without_any_score_gets_the_items_of_the_other_generators(
    kind: type[PartlyScored],
) -> None:
    generator = CollaborativeGenerator(kind({"a": None, "b": None}), ["a", "b"])
    assert ids(generator.propose(Profile("u", ("z",)), 5)) == []
    recent = RecentPopularityGenerator(WORLD, recent_share=1.0)
    found = Retriever({"own": generator, "recent": recent}).retrieve(Profile("u", ("z",)), 3)
    assert [one.item_id for one in found] == ["b", "c", "a"]


def test_hidden_items_are_no_candidates_and_do_not_shorten_lists() -> None:
    hidden = {"b"}
    recent = {"recent": RecentPopularityGenerator(WORLD, recent_share=1.0)}
    retriever = Retriever(recent, depth=1, hidden=hidden)
    assert [one.item_id for one in retriever.retrieve(Profile("u"), 2)] == ["c", "a"]
    hidden.clear()
    assert [one.item_id for one in retriever.retrieve(Profile("u"), 2)] == ["b", "c"]


@pytest.mark.parametrize("history", [("a",), ("b", "c"), ("b", "?")])
def test_scoring_the_full_catalog_at_once_equals_scoring_item_by_item(
    history: tuple[str, ...],
) -> None:
    data = TrainingData(WORLD, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w", "x"}))
    knn = ItemKnn(shrinkage=0.0).fit(data)
    profile = Profile("n", history)
    for items in (["c", "a", "b"], ["b", "a"]):
        at_once = CollaborativeGenerator(knn, items).propose(profile, 3)
        single = CollaborativeGenerator(WithoutCatalogScores(knn), items).propose(profile, 3)
        assert ids(at_once) == ids(single)
        assert at_once.scores == pytest.approx(single.scores)
        assert sorted(ids(at_once)) == sorted(items)
    first = CollaborativeGenerator(knn, ["a", "b", "c"]).propose(profile, 1)
    assert ids(first) == ids(at_once)[:1]


def test_equal_scores_are_ranked_by_id() -> None:
    data = TrainingData(WORLD, empty(ITEMS), empty(CANDIDATES), frozenset({"u", "v", "w", "x"}))
    popular = CollaborativeGenerator(Popularity().fit(data), ["c", "b", "a"])
    found = popular.propose(Profile("n", ("a",)), 3)
    assert ids(found) == ["b", "c", "a"]  # b and c: two users each


def test_small_weight_ranks_behind_the_other_generators() -> None:
    own = Proposals([f"own{n}" for n in range(30)], np.zeros(30))
    pool = Pool({"own": own, "recent": Proposals(["hit", "own5"], np.zeros(2))})
    equal = [candidate.item_id for candidate in pool.candidates()]
    assert equal.index("hit") == 1
    light = pool.candidates({"recent": Weight(0.3)})
    found = [candidate.item_id for candidate in light]
    assert found[0] == "own5"  # proposed by both generators, however small the second weight
    assert found[-1] == "hit"
    assert set(found) == set(equal)
    generators = {
        name: SimpleNamespace(propose=lambda _, __, x=x: Proposals([x], np.ones(1)))
        for name, x in (("a", "x"), ("b", "y"))
    }
    retriever = Retriever(generators, weights={"a": Weight(0.5)})
    assert [c.item_id for c in retriever.retrieve(Profile("u"), 2)] == ["y", "x"]


def test_latest_items_stand_for_a_missing_preference() -> None:
    texts = ["calm film", "loud song", "calm tale"]
    encoder = LsaEncoder(texts)
    index = VectorIndex(3)
    index.add(["a", "b", "c"], encoder.encode(texts))
    generator = PreferenceGenerator(encoder, index, n_items=1)
    assert ids(generator.propose(Profile("u", ("b", "a")), 2)) == ["a", "c"]
    assert ids(generator.propose(Profile("u", ("a", "b")), 1)) == ["b"]
    assert ids(generator.propose(Profile("u", ("a", "b"), "calm tale"), 1)) == ["c"]
    assert ids(generator.propose(Profile("u"), 2)) == []
    assert ids(PreferenceGenerator(encoder, index).propose(Profile("u", ("a",)), 2)) == []


class Failing:
    """Candidate generator that raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def propose(self, profile: Profile, n: int) -> Proposals:
        raise self.error


RECENT = RecentPopularityGenerator(WORLD, recent_share=1.0)


@pytest.mark.parametrize(
    "error",
    [
        DataError("The table is too short."),
        BackendError("The server is away."),
        TrainingError("The loss is infinite."),
        DamagedFileError("The file differs."),
        OSError(5, "Input/output error"),
    ],
)
def test_a_generator_that_fails_leaves_lists_to_the_others(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    retriever = Retriever({"own": Failing(error), "recent": RECENT})
    alone = Retriever({"recent": RECENT})
    for user in ("u", "v"):
        assert retriever.retrieve(Profile(user), 3) == alone.retrieve(Profile(user), 3)
    (record,) = caplog.records  # of two failures
    message = record.getMessage()
    assert message == f"The candidate generator own failed and is left out of lists: {error}"
    assert (retriever.n_failures, alone.n_failures) == (2, 0)
    with pytest.raises(type(error)):  # weights are not fitted without one
        retriever.pool(Profile("u"))


def test_it_is_an_error_if_all_generators_fail() -> None:
    failing = {"one": Failing(DataError("Too short.")), "two": Failing(OSError(5, "Broken"))}
    with pytest.raises(
        BackendError, match=r"All candidate generators failed.* one: Too short\. two: .*Broken"
    ):
        Retriever(failing).retrieve(Profile("u"), 3)
    with pytest.raises(BackendError, match=r"retrieve\.generators"):
        Retriever({"one": failing["one"]}).retrieve(Profile("u"), 3)
    assert Retriever({}).retrieve(Profile("u"), 3) == []


@pytest.mark.parametrize(
    "error",
    [
        TypeError("wrong"),
        RunFolderError("Run the stage 'distill' first."),
        UnknownNameError("Unknown baseline."),
        MissingExtraError("scipy", "baselines"),
    ],
)
def test_errors_of_users_and_of_the_code_are_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        Retriever({"own": Failing(error), "recent": RECENT}).retrieve(Profile("u"), 3)
