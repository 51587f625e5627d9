"""Tests for lists by language models and by baselines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import list_worlds
from mllm_msr import tables
from mllm_msr.config.settings import Settings
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.explanations import Explainer
from mllm_msr.recommend.fit_lists import FitOptions, fit_lists
from mllm_msr.recommend.list_weights import ListPlan, ListWeights, without_weights
from mllm_msr.recommend.lists import ranking
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, Proposals, with_reciprocal_ranks
from mllm_msr.recommend.retrieval import CollaborativeGenerator
from mllm_msr.serving.list_builder import ListBuilder
from mllm_msr.serving.scoring import CandidateScorer, ItemScores
from mllm_msr.serving.users import User

Serve = Callable[..., TestClient]


@pytest.fixture
def web(serve: Serve, scored_run: Path) -> TestClient:
    return serve(folder=scored_run)


def ask(web: TestClient, **fields: Any) -> Any:
    answer = web.post("/v1/recommendations", json={"user_id": "user3", "k": 8, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def item_ids(found: Any) -> list[str]:
    return [one["item_id"] for one in found["items"]]


def test_scored_baselines_are_listed_after_the_models(web: TestClient) -> None:
    models = web.get("/v1/models").json()["models"]
    assert [(one["name"], one["label"], one["scores"]) for one in models] == [
        ("run", "Zero-shot", True),
        ("item_knn", "Item-kNN", False),
        ("popularity", "Popularity", False),
    ]
    assert len({one["version"] for one in models}) == 3


def test_baseline_ranks_items_without_scores(web: TestClient) -> None:
    history = web.get("/v1/users/user3/preference").json()["history"]
    found = ask(web, model="item_knn")
    assert len(found["items"]) == 8
    assert not set(item_ids(found)) & set(history)
    assert {(one["score"], one["reason"]) for one in found["items"]} == {(None, "baseline")}
    assert {tuple(one["generators"]) for one in found["items"]} == {("item_knn",)}
    versions = {one["name"]: one["version"] for one in web.get("/v1/models").json()["models"]}
    assert found["model_version"] == versions["item_knn"]
    assert item_ids(found) != item_ids(ask(web, model="popularity"))


def test_baseline_ranks_given_candidates_and_leaves_out_dislikes(web: TestClient) -> None:
    ranked = item_ids(ask(web, model="popularity"))
    given = [ranked[5], ranked[1], "unknown", ranked[3]]
    found = ask(web, model="popularity", candidate_ids=given)
    assert item_ids(found) == [ranked[1], ranked[3], ranked[5]]
    assert found["unknown_items"] == ["unknown"]
    event = {"event_id": "1", "user_id": "user3", "item_id": ranked[0], "type": "dislike"}
    web.post("/v1/events", json={"events": [event]})
    assert item_ids(ask(web, model="popularity"))[:7] == ranked[1:]


def test_given_items_that_a_baseline_does_not_know_come_last(web: TestClient) -> None:
    ranked = item_ids(ask(web, model="item_knn"))
    web.post("/v1/items", json={"item_id": "new", "title": "A new boat"}).raise_for_status()
    found = ask(web, model="item_knn", candidate_ids=["new", ranked[1], ranked[0]])
    assert item_ids(found) == [*ranked[:2], "new"]
    assert [one["generators"] for one in found["items"]] == [["item_knn"], ["item_knn"], []]


def test_items_without_any_content_are_in_no_list(web: TestClient) -> None:
    catalog = web.app.state.engine.catalog  # type: ignore[attr-defined]
    models = ("run", "item_knn", "popularity")
    blank = {item_ids(ask(web, model=model))[0] for model in models}
    catalog.blank.update(blank)
    for model in models:
        assert not blank & set(item_ids(ask(web, model=model, user_id="user4", k=30)))


def test_baseline_ranks_with_the_current_history(web: TestClient) -> None:
    first = item_ids(ask(web, model="popularity"))[0]
    event = {"event_id": "1", "user_id": "user3", "item_id": first}
    web.post("/v1/events", json={"events": [event]})
    assert first not in item_ids(ask(web, model="popularity"))
    assert first in item_ids(ask(web, model="popularity", exclude_seen=False, k=30))


def test_new_user_gets_popular_items_from_every_model(web: TestClient) -> None:
    found = ask(web, user_id="new", model="item_knn")
    assert found["fallback_reason"] == "unknown_user"
    assert item_ids(found) == item_ids(ask(web, user_id="new"))
    given = item_ids(found)[2:0:-1]
    for model in ("item_knn", "run"):
        assert item_ids(ask(web, user_id="new", model=model, candidate_ids=given)) == given


def test_baseline_without_scores_says_so(web: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Proposals((), np.zeros(0))
    monkeypatch.setattr(CollaborativeGenerator, "propose", lambda *_: nothing)
    found = ask(web, model="item_knn")
    assert found["fallback_reason"] == "no_scores"
    assert item_ids(found) == item_ids(ask(web, budget=0))
    assert {one["reason"] for one in found["items"]} == {"no_scores"}
    given = item_ids(found)[2:0:-1]
    assert item_ids(ask(web, model="item_knn", candidate_ids=given)) == given


def test_unknown_models_are_rejected(web: TestClient) -> None:
    body = {"user_id": "user3", "model": "sasrec"}
    answer = web.post("/v1/recommendations", json=body)
    assert answer.status_code == 404
    assert "The model 'sasrec' is not served. Use a model that /v1/models lists." in answer.text


def n_scored(found: Any) -> int:
    return sum(one["score"] is not None for one in found["items"])


def test_lists_have_the_fitted_order_and_budget(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    run = list_worlds.make_run(tmp_path / "lists")
    with Pipeline.open(run) as pipeline:
        fitted = fit_lists(pipeline.context, pipeline.settings, FitOptions(budget=30))[0]
    assert fitted["budget"] == 30
    every = ("retrieve.adaptive=false",)
    web = serve(*every, folder=run)
    assert web.app.state.lists == (  # type: ignore[attr-defined]
        "Lists are ordered by the fitted weights of the run. The model scores 30 candidates per "
        f"list, one call each. {fitted['reason']}"
    )
    assert n_scored(ask(web, k=34)) == 30
    assert n_scored(ask(web, k=34, budget=4)) == 4
    # The first without a score may be before the last with one.
    scores = [one["score"] for one in ask(web, k=34, budget=15)["items"]]
    assert None in scores[:19]
    assert n_scored(ask(serve(folder=run), k=3)) == 3
    web = serve(*every, "retrieve.budget=7", folder=run)
    assert n_scored(ask(web, k=34)) == 7
    assert n_scored(ask(serve("retrieve.order=fusion", folder=run), k=34)) == 20
    test = (
        "serve.experiment=calls",
        "serve.variants.few.budget=3",
        "serve.variants.fitted.share=2",
    )
    web = serve(*every, *test, folder=run)
    found = [ask(web, k=34, user_id=f"user{n}") for n in range(8)]
    assert {(one["variant"], n_scored(one)) for one in found} == {("few", 3), ("fitted", 30)}


def test_new_users_get_a_reason_also_from_a_plan_without_calls(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    web = serve("retrieve.budget=0", folder=list_worlds.make_run(tmp_path / "run"))
    assert ask(web, user_id="new")["fallback_reason"] == "unknown_user"
    assert ask(web, user_id="new", budget=0)["fallback_reason"] is None
    assert ask(web)["fallback_reason"] is None


def test_a_list_is_explained_by_what_its_model_reads(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    monkeypatch.setattr(Explainer, "similar", lambda _, described, summary: tuple(described))
    settings = ("retrieve.budget=3", "recommend.history_items=3")
    run = list_worlds.make_run(tmp_path / "run", *settings)
    other = list_worlds.make_run(tmp_path / "other", "recommend.history_items=1")
    web = serve(f"serve.models.other={other}", folder=run)
    for model, titles in (("run", ["Thing 26", "Thing 25", "Thing 24"]), ("other", ["Thing 26"])):
        found = ask(web, model=model)
        assert {tuple(one["matches"]) for one in found["items"]} == {tuple(titles)}


def test_models_without_weights_are_fused_with_the_fitted_candidates() -> None:
    candidates = [Candidate(f"i{n}", 5.0 - n, ("recent",)) for n in range(4)]
    ranked = with_reciprocal_ranks(candidates)
    plan = without_weights(Settings())
    scores = {"i0": 0.1, "i1": 0.2, "i2": 0.9, "i3": 0.8}
    # i2 is the third of one ranking and the first of the other.
    assert ranking(ranked, scores, plan)[0] == "i2"


class SlowScorer(CandidateScorer):
    """Scorer that fails from some part of a list on."""

    def __init__(self, n_good: int) -> None:
        self.n_good = n_good
        self.deadlines: list[float | None] = []

    def deadline(self) -> float:
        return 7.0

    async def score(self, user: User, item_ids: Any, **options: Any) -> ItemScores:
        self.deadlines.append(options["deadline"])
        if len(self.deadlines) > self.n_good:
            return ItemScores({}, fallback_reason="model_slow")
        return ItemScores(dict.fromkeys(item_ids, 0.5))


@pytest.mark.parametrize("n_good", [0, 1, 3])
def test_the_parts_of_a_list_share_a_deadline_and_a_reason(n_good: int) -> None:
    weights = ListWeights({}, scale=1.0, slope=1.0, bound=9.0, budget=30, reason="")
    plan = ListPlan("fitted", 30, "", weights, adaptive=True)
    candidates = [Candidate(f"i{n}", 1.0, ("recent",)) for n in range(30)]
    user = User(Profile("u", ("z",), "calm"), tables.empty(tables.PREFERENCES), known=True)
    scorer = SlowScorer(n_good)
    found = asyncio.run(ListBuilder._score(scorer, plan, user, candidates, 10))
    assert scorer.deadlines == [7.0] * min(n_good + 1, 3)
    assert len(found.values) == 10 * n_good
    assert found.fallback_reason == (None if n_good else "model_slow")
    # The last one is within the budget.
    reasons = {0: "model_slow", 1: "scoring_failed", 3: None}
    assert found.reason("i29", otherwise="beyond_budget") == reasons[n_good]


def test_candidates_that_cannot_change_the_list_are_not_needed() -> None:
    weights = ListWeights({}, scale=1.0, slope=1.0, bound=0.5, budget=30, reason="")
    plan = ListPlan("fitted", 30, "", weights, adaptive=True)
    candidates = [Candidate(f"i{n}", 30.0 - n, ("recent",)) for n in range(30)]
    user = User(Profile("u", ("z",), "calm"), tables.empty(tables.PREFERENCES), known=True)
    scorer = SlowScorer(n_good=3)
    found = asyncio.run(ListBuilder._score(scorer, plan, user, candidates, 5))
    assert len(scorer.deadlines) == 1
    reasons = [found.reason(f"i{n}", otherwise="beyond_budget") for n in (9, 10, 29, 30)]
    assert reasons == [None, "not_needed", "not_needed", "beyond_budget"]
    # Without adaptive scoring, all are scored.
    every = replace(plan, adaptive=False)
    found = asyncio.run(ListBuilder._score(SlowScorer(1), every, user, candidates, 5))
    assert not found.not_needed


def test_items_of_a_list_say_whether_they_are_beyond_the_budget_or_not_needed(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    run = list_worlds.make_run(tmp_path / "lists")
    with Pipeline.open(run) as pipeline:
        fit_lists(pipeline.context, pipeline.settings, FitOptions(budget=30))
    # Such items reach a list if it is diversified; here, scoring just stops after ten.
    monkeypatch.setattr(ListPlan, "is_settled", lambda *_, n_read, **__: n_read >= 10)
    found = ask(serve(folder=run), k=34, budget=20)
    reasons = Counter(one["reason"] for one in found["items"])
    assert reasons == {None: 10, "not_needed": 10, "beyond_budget": 14}
    assert found["fallback_reason"] is None
