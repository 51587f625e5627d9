"""Tests for lists by language models and by baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

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


def test_unknown_models_are_rejected(web: TestClient) -> None:
    body = {"user_id": "user3", "model": "sasrec"}
    answer = web.post("/v1/recommendations", json=body)
    assert answer.status_code == 404
    assert "The model 'sasrec' is not served. Use a model that /v1/models lists." in answer.text
