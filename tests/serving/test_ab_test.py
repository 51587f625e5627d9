"""Tests for A/B tests of a service: assignment, lists of the variants, counters, failures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mllm_msr.errors import RunFolderError, SettingsError
from mllm_msr.serving.ab_report import ab_report
from mllm_msr.serving.ab_test import assign
from mllm_msr.serving.exposures import ExposureLog

Serve = Callable[..., TestClient]

SHARES = {"retrieval": 1.0, "model": 1.0}
TEST = (
    "serve.experiment=budget", "serve.variants.retrieval.budget=0", "serve.variants.model.budget=5"
)  # fmt: skip
USERS = [f"user{number}" for number in range(12)]


def ask(web: TestClient, user_id: str, **fields: Any) -> dict[str, Any]:
    answer = web.post("/v1/recommendations", json={"user_id": user_id, "k": 5, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def interact(web: TestClient, event_id: str, user_id: str, item_id: str) -> None:
    event = {"event_id": event_id, "user_id": user_id, "item_id": item_id}
    assert web.post("/v1/events", json={"events": [event]}).status_code == 202


def counts(web: TestClient, name: str) -> dict[str, int]:
    pattern = rf'^mllm_msr_experiment_{name}_total{{experiment="budget",variant="(\w+)"}} (\d+)'
    return {k: int(n) for k, n in re.findall(pattern, web.get("/metrics").text, re.MULTILINE)}


def test_shares_of_users_are_those_of_the_variants() -> None:
    shares = {"a": 3.0, "b": 1.0}
    found = Counter(assign("test", f"u{n}", shares) for n in range(4000))
    assert abs(found["a"] / 4000 - 0.75) < 0.03
    assert [assign("test", f"u{n}", shares) for n in range(99)] == [
        assign("test", f"u{n}", shares) for n in range(99)
    ]
    # Another test assigns users independently.
    both = Counter(
        (assign("test", f"u{n}", SHARES), assign("other", f"u{n}", SHARES)) for n in range(4000)
    )
    assert all(abs(n / 4000 - 0.25) < 0.04 for n in both.values())


def test_users_get_the_lists_of_their_variant(serve: Serve) -> None:
    web = serve(*TEST)
    variants = {user: ask(web, user)["variant"] for user in USERS}
    assert variants == {user: assign("budget", user, SHARES) for user in USERS}
    assert set(variants.values()) == set(SHARES)
    for user, variant in variants.items():
        scored = [item["score"] is not None for item in ask(web, user)["items"]]
        assert any(scored) == (variant == "model")
    assert sum(counts(web, "exposures").values()) == 2 * len(USERS)


def test_requests_that_choose_the_model_are_not_tested(serve: Serve) -> None:
    web = serve(*TEST)
    assert ask(web, "user1", budget=3)["variant"] is None
    assert ask(web, "user1", model="run")["variant"] is None
    body = {"history": ["item1"], "k": 3}
    assert web.post("/v1/recommendations", json=body).json()["variant"] is None
    assert counts(web, "exposures") == {}
    assert ask(serve(), "user1")["variant"] is None  # without a test


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    return str(request.getfixturevalue("new_database")())


def test_outcomes_are_interactions_with_shown_items(serve: Serve, database: str) -> None:
    web = serve(*TEST, f"serve.state={database}")
    lists = {user: ask(web, user) for user in USERS}
    liked = USERS[0]
    variant = lists[liked]["variant"]
    shown = [item["item_id"] for item in lists[liked]["items"]]
    others = [f"item{n}" for n in range(30) if f"item{n}" not in shown]
    interact(web, "1", liked, shown[0])
    interact(web, "1", liked, shown[0])  # a duplicate
    interact(web, "2", liked, others[0])
    interact(web, "3", "somebody", shown[0])
    assert counts(web, "outcomes") == {variant: 1}
    report = ab_report(database)  # while the service is running
    assert report.experiment == "budget"
    assert {name: one.users for name, one in report.variants.items()} == Counter(
        one["variant"] for one in lists.values()
    )
    assert {name: one.converted for name, one in report.variants.items()} == {
        name: int(name == variant) for name in SHARES
    }
    # A repeated list keeps the time at which its items were shown first.
    assert ask(web, liked)["variant"] == variant
    again = ab_report(database, experiment="budget").variants[variant]
    assert (again.users, again.converted) == (report.variants[variant].users, 1)
    web.delete(f"/v1/users/{liked}")
    assert ab_report(database).variants[variant].converted == 0


def test_list_is_returned_if_it_cannot_be_recorded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web = serve(*TEST)

    def fail(*_: object) -> None:
        raise RunFolderError("The disk is full.")

    monkeypatch.setattr(ExposureLog, "add", fail)
    monkeypatch.setattr(ExposureLog, "variants_of", fail)
    assert ask(web, "user1")["items"]
    assert counts(web, "exposures") == {}
    assert "was not recorded: The disk is full." in caplog.text
    interact(web, "1", "user1", "item1")
    assert "were not counted: The disk is full." in caplog.text


def test_model_of_another_run_is_a_variant(serve: Serve, scored_run: Path) -> None:
    web = serve(
        f"serve.models.new={scored_run}",
        "serve.experiment=runs",
        "serve.variants.old.model=run",
        "serve.variants.new.model=new",
    )
    served = {one["name"]: one for one in web.get("/v1/models").json()["models"]}
    assert (served["new"]["label"], served["new"]["scores"]) == ("new", True)
    item = {"item_id": "added", "title": "Thing 39"}  # known to the served run only
    assert web.post("/v1/items", json=item).status_code == 201
    found = ask(web, "user1", model="new", candidate_ids=["added", "item2"], k=2)
    assert [one["item_id"] for one in found["items"]] == ["added", "item2"]
    assert all(one["score"] for one in found["items"])
    assert {ask(web, user)["variant"] for user in USERS} == {"old", "new"}
    assert "mllm_msr_model_new_waiting" in web.get("/metrics").text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("serve.experiment=x",), "at least two serve.variants"),
        (("serve.experiment=x", "serve.variants.a.budget=1"), "at least two serve.variants"),
        (("serve.models.run=x",), "name run in serve.models is taken"),
        (("serve.variants.a.share=0",), "must be greater than 0"),
        (("serve.experiment=two words", "serve.variants.a.budget=1"), "serve.experiment"),
    ],
)
def test_unusable_tests_are_rejected(serve: Serve, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        serve(*overrides)
