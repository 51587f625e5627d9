"""Tests for the routes over HTTP: responses, rejected requests, restarts, failures."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mllm_msr.errors import RunFolderError
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.state import ServiceState
from mllm_msr.types import ChoiceScores, Prompt
from online_worlds import FakeBackend, ask, event, send

Serve = Callable[..., TestClient]


def preference(web: TestClient, user_id: str, n_items: int) -> dict[str, Any]:
    """Wait until a user's preference includes a number of items, and return the response."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = web.get(f"/v1/users/{user_id}/preference").json()
        if found.get("n_items") == n_items:
            return found
        time.sleep(0.01)
    raise AssertionError(f"the preference never read {n_items} items: {found}")


def test_list_contains_scores_titles_and_matches(serve: Serve, run: Path) -> None:
    web = serve()
    found = ask(web, user_id="user3", k=4, budget=6)
    assert found["fallback_reason"] is None
    assert found["preference"].startswith("The user appears to have a preference")
    assert [item["rank"] for item in found["items"]] == [1, 2, 3, 4]
    assert all(0 < item["score"] < 1 for item in found["items"])
    assert {item["reason"] for item in found["items"]} == {None}
    assert found["unknown_items"] == []
    assert found["items"][0]["title"].startswith("Thing ")
    # The word "thing" is in every summary, so it does not match.
    assert found["items"][0]["matches"] == []
    with MllmMsr.from_run(run) as model:
        assert not {item["item_id"] for item in found["items"]} & set(model.users.history("user3"))
    assert ask(web, user_id="user3", explain=False)["items"][0]["matches"] is None
    again = ask(web, user_id="user3", k=4, budget=6)
    assert again["items"] == found["items"]
    assert again["recommendation_id"] != found["recommendation_id"]


def test_given_candidates_are_ranked_by_the_model(serve: Serve, ranker: FakeBackend) -> None:
    web = serve()
    given = ["item4", "item29", "?", "item8", "item29"]
    found = ask(web, user_id="newcomer", candidate_ids=given)
    assert found["fallback_reason"] == "unknown_user"
    assert {(item["score"], item["reason"]) for item in found["items"]} == {(None, "unknown_user")}
    assert [item["item_id"] for item in found["items"]] == ["item4", "item29", "item8"]
    assert found["unknown_items"] == ["?"]
    found = ask(web, user_id="user3", candidate_ids=given, exclude_seen=False)
    assert [item["item_id"] for item in found["items"]] == ["item29", "item8", "item4"]
    assert ask(web, history=["item1", "item2"], candidate_ids=given)["items"][0]["score"] > 0.5


def test_items_without_a_score_have_a_reason(serve: Serve) -> None:
    web = serve()
    given = ["item13", "item4", "item8"]
    found = ask(web, user_id="user3", candidate_ids=given, budget=2, exclude_seen=False)
    by_item = {item["item_id"]: (item["score"], item["reason"]) for item in found["items"]}
    assert by_item["item13"] == (None, "scoring_failed")
    assert by_item["item8"] == (None, "beyond_budget")
    assert by_item["item4"][0] > 0.5
    assert found["fallback_reason"] is None


def test_new_users_get_popular_items(serve: Serve, ranker: FakeBackend) -> None:
    web = serve()
    new = ask(web, user_id="newcomer", k=3)
    assert new["fallback_reason"] == "unknown_user"
    assert [item["generators"] for item in new["items"]] == [["recent"]] * 3
    strict = web.post("/v1/recommendations", json={"user_id": "newcomer", "strict": True})
    assert strict.status_code == 404
    assert "Send events of this user first" in strict.json()["detail"]
    assert web.get("/v1/users/newcomer/preference").status_code == 404
    assert sum(ranker.batches) <= 1  # only the warm-up


def test_scores_are_cached(serve: Serve, ranker: FakeBackend) -> None:
    web = serve()
    body = {"user_id": "user3", "item_ids": ["item20", "?", "item13", "item2"]}
    first = web.post("/v1/scores", json=body).json()
    values = [one["score"] for one in first["scores"]]
    assert values[0] > values[3] > 0
    assert values[1:3] == [None, None]
    reasons = [one["reason"] for one in first["scores"]]
    assert reasons == [None, "unknown_item", "scoring_failed", None]
    n_batches = len(ranker.batches)
    known = {**body, "item_ids": ["item20", "item2"]}
    assert [one["score"] for one in web.post("/v1/scores", json=known).json()["scores"]] == [
        values[0], values[3],
    ]  # fmt: skip
    assert len(ranker.batches) == n_batches
    unknown = web.post("/v1/scores", json={**body, "user_id": "newcomer"}).json()
    assert unknown["fallback_reason"] == "unknown_user"
    assert {one["reason"] for one in unknown["scores"]} == {"unknown_user"}


def test_events_count_once_and_full_blocks_update_the_preference(
    serve: Serve, preference_model: FakeBackend
) -> None:
    web = serve()
    assert send(web, event("1", "item1"), event("2", "?"), event("1", "item9")) == [
        "accepted", "unknown_item", "duplicate",
    ]  # fmt: skip
    # Only the first preference does not wait for a full block.
    assert preference(web, "newcomer", 1)["history"] == ["item1"]
    assert send(web, event("3", "item2"), event("4", "item3")) == ["accepted"] * 2
    found = preference(web, "newcomer", 3)
    assert [(row["block"], row["n_items"]) for row in found["preference_history"]] == [(0, 3)]
    send(web, event("5", "item4"), event("6", "item5"))
    assert preference(web, "newcomer", 3)["history"][-1] == "item5"
    send(web, event("7", "item6"))
    assert len(preference(web, "newcomer", 6)["preference_history"]) == 2
    assert ask(web, user_id="newcomer", k=2)["items"][0]["item_id"] not in {"item1", "item6"}


def test_preference_can_be_updated_after_each_event(serve: Serve) -> None:
    web = serve("serve.update=event")
    for n in range(1, 6):
        send(web, event(str(n), f"item{n}"))
        preference(web, "newcomer", n)


def test_restarted_service_has_all_events_and_items(
    serve: Serve, preference_model: FakeBackend
) -> None:
    web = serve()
    new = {"item_id": "late", "title": "Thing 35"}
    assert web.post("/v1/items", json=new).status_code == 201
    preference_model.fails = True
    send(web, *(event(str(n), f"item{n}") for n in range(3)))
    preference_model.fails = False
    web = serve()
    assert send(web, event("0", "item8")) == ["duplicate"]
    # The failed update is done after the restart.
    assert preference(web, "newcomer", 3)["history"] == ["item0", "item1", "item2"]
    assert ask(web, user_id="newcomer", candidate_ids=["late"])["items"][0]["item_id"] == "late"


def test_deleted_user_is_unknown_after_a_restart_too(serve: Serve) -> None:
    web = serve()
    send(web, event("1", "item1", "user3"))
    found = web.delete("/v1/users/user3").json()
    assert (found["user_id"], found["events"]) == ("user3", 1)
    assert web.get("/v1/users/user3/preference").status_code == 404
    web = serve()
    assert web.get("/v1/users/user3/preference").status_code == 404
    assert ask(web, user_id="user3")["fallback_reason"] == "unknown_user"
    send(web, event("2", "item2", "user3"))
    assert preference(web, "user3", 1)["history"] == ["item2"]
    assert web.delete("/v1/users/unknown").json()["events"] == 0


def test_running_update_does_not_restore_a_deleted_user(
    serve: Serve, preference_model: FakeBackend
) -> None:
    web = serve()
    preference_model.gate.clear()
    send(web, event("1", "item1"))
    assert web.delete("/v1/users/newcomer").status_code == 200
    preference_model.gate.set()
    send(web, event("2", "item2"))
    assert preference(web, "newcomer", 1)["history"] == ["item2"]


def test_new_items_are_added_once_and_recommended(
    serve: Serve, images: list[Path], preference_model: FakeBackend
) -> None:
    web = serve()
    image = base64.b64encode(images[0].read_bytes()).decode()
    body = {"item_id": "fresh", "title": "Thing 39", "image": image}
    made = web.post("/v1/items", json=body)
    assert (made.status_code, made.json()["image_status"]) == (201, "ok")
    assert made.json()["summary"]
    assert web.post("/v1/items", json=body).status_code == 200
    for other in ({**body, "title": "Other"}, {"item_id": "item1", "title": "Thing 1"}):
        taken = web.post("/v1/items", json=other)
        assert (taken.status_code, "Use a different id" in taken.json()["detail"]) == (409, True)
    found = ask(web, user_id="user3", candidate_ids=["item5", "fresh"], exclude_seen=False)
    assert found["items"][0]["item_id"] == "fresh"
    preference_model.fails = True
    refused = web.post("/v1/items", json={"item_id": "plain", "title": "Thing 38"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    preference_model.fails = False
    assert web.post("/v1/items", json={"item_id": "plain", "title": "Thing 38"}).status_code == 201


def test_failures_of_the_model_name_no_classes(
    serve: Serve, preference_model: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("out of memory")

    monkeypatch.setattr(FakeBackend, "generate", fail)
    answer = serve().post("/v1/items", json={"item_id": "new", "title": "Thing 38"})
    assert answer.status_code == 503
    assert "The model failed: out of memory." in answer.json()["detail"]
    assert "Error" not in answer.json()["detail"]


def test_slow_model_is_replaced_by_a_fallback(serve: Serve, ranker: FakeBackend) -> None:
    web = serve("serve.model_timeout=0.05")
    ask(web, user_id="user3", k=1, budget=1)
    ranker.gate.clear()
    found = ask(web, user_id="user4", k=3)
    assert found["fallback_reason"] == "model_slow"
    assert [item["score"] for item in found["items"]] == [None] * 3
    for _ in range(3):
        found = ask(web, user_id="user4")
    assert found["fallback_reason"] == "model_circuit_open"
    assert web.get("/readyz").json()["status"] == "fallback"


def test_service_is_ready_when_the_model_has_answered(serve: Serve, ranker: FakeBackend) -> None:
    ranker.gate.clear()
    web = serve()
    assert web.get("/readyz").json()["model"] == "loading"
    assert web.get("/readyz").json()["status"] == "fallback"
    ranker.gate.set()
    while web.get("/readyz").json()["status"] != "ready":
        pass


def test_service_is_not_ready_while_all_prompts_fail(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = serve()
    works = FakeBackend.score
    monkeypatch.setattr(FakeBackend, "score", fail_all_prompts)
    found = ask(web, user_id="user3", k=10, budget=10)
    assert found["fallback_reason"] == "model_failed"
    assert {(one["score"], one["reason"]) for one in found["items"]} == {(None, "scoring_failed")}
    ready = web.get("/readyz").json()
    assert ready["status"] == "fallback"
    assert re.fullmatch(r"the last \d+ prompts failed", ready["model"])
    monkeypatch.setattr(FakeBackend, "score", works)
    ask(web, user_id="user3", k=10, budget=10)
    assert web.get("/readyz").json()["status"] == "ready"


def fail_all_prompts(
    self: FakeBackend, prompts: Iterable[Prompt], choices: Sequence[str]
) -> Iterator[tuple[int, ChoiceScores]]:
    del self, choices
    for index, _ in enumerate(prompts):
        yield index, ChoiceScores((), error="the image is missing")


def test_failing_model_is_replaced_by_a_fallback(serve: Serve, ranker: FakeBackend) -> None:
    ranker.fails = True
    web = serve()
    reasons = [ask(web, user_id="user3", k=2)["fallback_reason"] for _ in range(4)]
    assert set(reasons) <= {"model_failed", "model_circuit_open"}
    assert reasons[-1] == "model_circuit_open"
    text = web.get("/metrics").text
    assert 'mllm_msr_fallbacks_total{reason="model_circuit_open"}' in text


def test_requests_beyond_the_queue_limit_get_429(serve: Serve, ranker: FakeBackend) -> None:
    web = serve("serve.max_queue=8", "serve.model_timeout=30")
    ask(web, user_id="user1", k=1, budget=1)
    ranker.gate.clear()
    statuses: list[int] = []

    def flood(user: int) -> None:
        body = {"user_id": f"user{user}", "k": 1, "budget": 6}
        statuses.append(web.post("/v1/recommendations", json=body).status_code)

    threads = [threading.Thread(target=flood, args=(user,)) for user in range(2, 8)]
    for thread in threads:
        thread.start()
    while statuses.count(429) < 4:
        time.sleep(0.005)
    full = web.post("/v1/recommendations", json={"user_id": "user9", "budget": 6})
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert send(web, event("1", "item1")) == ["accepted"]
    ranker.gate.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 429, 429, 429, 429]
    assert ask(web, user_id="user9", budget=6)["fallback_reason"] is None


def test_full_disk_acknowledges_no_events(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    web = serve()

    def full(*_: object) -> None:
        raise RunFolderError("The disk is full. Free disk space.")

    with monkeypatch.context() as patch:
        patch.setattr(ServiceState, "add_events", full)
        patch.setattr(ServiceState, "check", full)
        answer = web.post("/v1/events", json={"events": [event("1", "item1")]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "Free disk space" in answer.json()["detail"]
        assert web.get("/readyz").status_code == 503
        assert web.get("/healthz").status_code == 200
        assert ask(web, user_id="user3", k=1)["items"]
    assert send(web, event("1", "item1")) == ["accepted"]
    assert web.get("/readyz").json()["status"] == "ready"


def test_every_route_requires_the_key(serve: Serve) -> None:
    web = serve(key="secret")
    for route in ("/v1/users/u/preference", "/metrics", "/report", "/v1/run"):
        assert web.get(route).status_code == 401
        assert web.get(route, headers={"X-API-Key": "secret"}).status_code in {200, 404}


def test_metrics_contain_routes_but_no_user_ids(serve: Serve) -> None:
    web = serve()
    web.get("/v1/users/another_user/preference")
    ask(web, user_id="another_user")
    text = web.get("/metrics").text
    assert 'route="/v1/users/{user_id}/preference",status="404"' in text
    assert "\nmllm_msr_scorer_waiting " in text
    assert "another_user" not in text
