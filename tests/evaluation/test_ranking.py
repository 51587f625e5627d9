"""Full-catalog ranking: independent of chunks, equal to scoring each candidate, no seen items."""

from __future__ import annotations

import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_msr.data.full_ranking import full_candidates
from mllm_msr.errors import DataError
from mllm_msr.evaluation import ranking
from mllm_msr.evaluation.ranking import rank_catalog, rank_scores
from mllm_msr.tables import CANDIDATES, INTERACTIONS, RANKS, TOP
from scored_candidates import score_table


class World:
    """Random users, histories with a repeated item, targets, and integer scores with many ties."""

    def __init__(self, *, n_users=9, n_items=30, levels=4, seed=0):
        rng = np.random.default_rng(seed)
        self.catalog = [f"i{at}" for at in rng.permutation(n_items)]
        users = [f"u{at}" for at in rng.permutation(n_users)]
        self.scores = rng.integers(0, levels, (n_users, n_items)).astype(np.float32)
        histories = [rng.permutation(n_items)[: rng.integers(2, 6)] for _ in users]
        rows = [
            (user, self.catalog[item], step, step)
            for user, items in zip(users, histories, strict=True)
            for step, item in enumerate([*items, items[0], items[-1]])
        ]
        self.interactions = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
        last = [
            (user, len(items) - 1, items[-1]) for user, items in zip(users, histories, strict=True)
        ]
        self.targets = pl.DataFrame(
            [(3, "test", "uniform", user, at, self.catalog[item], 1) for user, at, item in last],
            schema=dict(CANDIDATES),
            orient="row",
        )
        self.users = self.targets.select("user_id", "position")

    def chunks(self, size):
        for start in range(0, self.users.height, size):
            yield self.users[start : start + size], self.scores[start : start + size]

    def rank(self, *, size=4, **changes):
        given = {"catalog": self.catalog, "interactions": self.interactions} | changes
        return rank_catalog(given.pop("chunks", self.chunks(size)), self.targets, **given)

    def from_tables(self, depth=20):
        """Compute the same ranking from a table of all candidates."""
        blocks = list(
            full_candidates(
                self.targets, self.interactions, pl.Series("item_id", self.catalog), max_rows=50
            )
        )
        rows = {user: at for at, user in enumerate(self.users["user_id"])}
        columns = {item: at for at, item in enumerate(self.catalog)}
        ranked = [
            rank_scores(
                block.with_columns(
                    score=pl.Series(
                        [
                            float(self.scores[rows[user], columns[item]])
                            for user, item in block.select("user_id", "item_id").iter_rows()
                        ]
                    )
                ),
                depth=depth,
            )
            for block in blocks
        ]
        ranks = pl.concat(part.ranks for part in ranked).sort("user_id")
        return ranks, pl.concat(part.top for part in ranked).sort("user_id", "rank")


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 10), st.integers(1, 40))
def test_dense_ranking_equals_the_ranking_of_all_candidates(seed, levels, size, depth):
    world = World(levels=levels, seed=seed)
    found = world.rank(size=size, depth=depth)
    ranks, top = world.from_tables(depth)
    assert found.ranks.equals(ranks)
    assert found.top.equals(top)
    assert dict(found.ranks.schema) == dict(RANKS)
    assert dict(found.top.schema) == dict(TOP)


def test_a_list_by_hand():
    targets = pl.DataFrame(
        [(0, "test", "uniform", "u", 2, "d", 1)], schema=dict(CANDIDATES), orient="row"
    )
    history = pl.DataFrame(
        [("u", "a", 0, 0), ("u", "b", 1, 1), ("u", "d", 2, 2), ("u", "e", 3, 3)],
        schema=dict(INTERACTIONS),
        orient="row",
    )
    scores = np.array([[9, 8, 5, 5, 7, 5]], dtype=np.float32)  # f, c and d tie; by id: c d f
    found = rank_catalog(
        [(targets.select("user_id", "position"), scores)],
        targets,
        catalog=["a", "b", "f", "c", "e", "d"],
        interactions=history,
        depth=3,
    )
    assert found.top["item_id"].to_list() == ["e", "c", "d"]
    assert found.top["rank"].to_list() == [1, 2, 3]
    assert found.top["score"].to_list() == [7, 5, 5]
    assert found.ranks.row(0) == (0, "full", "u", 1, 2, 3)


def test_the_array_of_the_scorer_is_not_modified():
    world = World()
    before = world.scores.copy()
    world.scores.flags.writeable = False
    world.rank()
    np.testing.assert_array_equal(world.scores, before)


def test_memory_is_bounded_by_one_block(monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 2**18)
    world = World(n_users=3000, n_items=1000, levels=1000)
    whole = world.scores.nbytes
    tracemalloc.start()
    world.rank(size=500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert whole > 11e6
    assert peak < whole / 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda w: {"catalog": [f"x{at}" for at in range(30)]},
            "9 targets are not in the catalog of 'mine' .* such as 'i",
        ),
        (
            lambda w: {"chunks": [(w.users, w.scores[:, 1:])]},
            r"shape \(9, 29\) instead of \(9, 30\)",
        ),
        (lambda w: {"chunks": [(w.users, np.where(w.scores == 3, np.nan, w.scores))]}, "NaN"),
        (lambda w: {"chunks": [(w.users, np.where(w.scores == 3, np.inf, w.scores))]}, "infinite"),
        (lambda w: {"chunks": [(w.users[1:], w.scores[1:])]}, "8 rows for 9 users"),
        (lambda w: {"chunks": [*w.chunks(9), *w.chunks(9)]}, "18 rows for 9 users"),
        (
            lambda w: {"chunks": [(w.users.with_columns(user_id=pl.lit("unknown")), w.scores)]},
            "9 users of a chunk have no target",
        ),
    ],
)
def test_wrong_chunks_are_rejected(changes, message):
    world = World()
    with pytest.raises(DataError, match=f"(?s){message}"):
        world.rank(**changes(world), model="mine")


def test_a_constant_score_ties_all_items():
    world = World(levels=1)
    found = world.rank(depth=30)
    assert (found.ranks["n_better"] == 0).all()
    assert (found.ranks["n_tied"] == found.ranks["n_negatives"]).all()
    lists = found.top.group_by("user_id", maintain_order=True).agg("item_id")["item_id"]
    assert all(items.to_list() == sorted(items.to_list()) for items in lists)


def test_candidates_without_a_score_rank_last_and_are_not_listed():
    table = score_table([0.3, 0.1, 0.2], [1, 0, 0]).with_columns(
        score=pl.Series([None, 0.1, 0.2], dtype=pl.Float64)
    )
    ranking = rank_scores(table)
    assert ranking.ranks.select("n_better", "n_tied").row(0) == (2, 0)
    assert ranking.top["item_id"].to_list() == ["u-i2", "u-i1"]
    assert ranking.top["rank"].to_list() == [1, 2]
