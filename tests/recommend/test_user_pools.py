"""Candidates of users with hidden targets, and the ranker's scores of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import list_worlds
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.fit_lists import FitOptions, fit_lists
from mllm_msr.recommend.list_weights import without_weights
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.rank_fusion import Pool, Proposals
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.user_pools import (
    UserPool,
    load_hidden,
    retrieve_pools,
    score_items,
    targets_with_input,
)


def test_the_row_of_the_target() -> None:
    pool = Pool({"one": Proposals(["b", "a"], np.zeros(2))})
    assert UserPool("u", 3, "b", pool).row == 1
    assert UserPool("u", 3, "c", pool).row is None


def test_items_of_several_users_are_scored_in_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = list_worlds.install(monkeypatch)
    run = list_worlds.make_run(tmp_path)
    with Pipeline.open(run) as pipeline:
        settings, recommenders = pipeline.settings, pipeline.recommenders
        targets = targets_with_input(recommenders, settings, 0, "validation")
        assert targets.height == 12
        assert targets["user_id"].is_sorted()
        loaded = load_hidden(pipeline.context, settings, without_weights(settings), 0)
        pools = retrieve_pools(pipeline.context, loaded, targets)
        for user in pools:
            history = loaded.users.history(user.user_id)
            assert len(history) == user.position == 5
            assert user.target not in history
            assert not set(history) & set(user.pool.item_ids)
        requests = [(user, [user.target, user.pool.item_ids[0]]) for user in pools[:3]]
        scores, usage = score_items(recommenders, settings, 0, requests)
    assert [found[user.target] for found, user in zip(scores, pools, strict=False)] == (
        pytest.approx([0.99] * 3)
    )
    assert usage["misses"] == oracle.n_prompts


def test_interactions_of_an_update_are_hidden_with_the_target(tmp_path: Path) -> None:
    run = list_worlds.make_run(tmp_path)
    newer = tmp_path / "newer.csv"
    newer.write_text("user_id,item_id,timestamp\nuser1,item30,6\n")
    with Pipeline.open(run) as pipeline:
        pipeline.update(newer)
        settings = pipeline.settings
        loaded = load_hidden(pipeline.context, settings, without_weights(settings), 0)
        assert len(load_run(run).users.history("user1")) == 7
    assert len(loaded.users.history("user1")) == 5


def test_a_baseline_without_some_scores_leaves_no_gaps_in_pools_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    score_catalog = Popularity.score_catalog

    def score_some(self: Popularity, *given: Any) -> Iterator[Any]:
        for users, scores in score_catalog(self, *given):
            partly = scores.copy()
            partly[:, ::2] = np.nan
            partly[users["user_id"].to_numpy() == "user1"] = np.nan
            yield users, partly

    monkeypatch.setattr(Popularity, "score_catalog", score_some)
    run = list_worlds.make_run(tmp_path, "retrieve.generators=[preference, recent, popularity]")
    with Pipeline.open(run) as pipeline:
        settings = pipeline.settings
        targets = targets_with_input(pipeline.recommenders, settings, 0, "validation")
        loaded = load_hidden(pipeline.context, settings, without_weights(settings), 0)
        pools = retrieve_pools(pipeline.context, loaded, targets)
        assert all(np.isfinite(one.pool.features).all() for one in pools)
        found = fit_lists(pipeline.context, settings, FitOptions(budget=10))[0]
        assert all(np.isfinite([*one.values()]).all() for one in found["generators"].values())
    with MllmMsr.from_run(run) as model:
        for user_id in ("user1", "user2"):
            items = model.recommend(user_id, 5, budget=0)
            names = {name for item in items for name in item.generators}
            assert ("popularity" in names) == (user_id == "user2")
