"""Tests for reranking with the requests of Cohere's clients and of Gorse, and for queries."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx2
import pytest
from cohere.core import ApiError
from jinja2 import Template
from starlette.testclient import TestClient

from mllm_msr.serving.rerank_routes import Query, UnscorableQueryError, read_query
from online_worlds import FakeBackend
from page_browser import listening_with_fakes

Serve = Callable[..., TestClient]

LIKES = "The user likes calm things."


@pytest.fixture(scope="module")
def url(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("rerank") / "state.sqlite"
    with listening_with_fakes(run, f"serve.state=sqlite:///{state}", key="secret") as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="secret", base_url=url)


def rerank(web: TestClient, **body: Any) -> Any:
    answer = web.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(web: TestClient, status: int, **body: Any) -> str:
    answer = web.post("/v1/rerank", json={"documents": ["item1"], **body})
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


@pytest.mark.parametrize("query", ["user3", "user:user3", "history:item1,item2", LIKES])
def test_cohere_client_gets_documents_by_descending_score(
    client: cohere.ClientV2, query: str
) -> None:
    documents = ["item3", "item20", "Thing 10\nwith a text", "item8"]
    found = client.rerank(model="run", query=query, documents=documents, top_n=3)
    assert [one.index for one in found.results] == [1, 2, 3]
    scores = [one.relevance_score for one in found.results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)


def test_first_version_of_the_client_gets_the_documents(url: str) -> None:
    client = cohere.Client(api_key="secret", base_url=url)
    found = client.rerank(
        model="zero_shot",
        query="user3",
        documents=[{"text": "Thing 5"}, "item9"],
        return_documents=True,
    )
    shown = [(one.index, one.document.text) for one in found.results if one.document]
    assert shown == [(1, "Thing 9"), (0, "Thing 5")]


def ask_like_gorse(url: str, token: str, *, query: str, documents: list[str]) -> dict[str, float]:
    """Send the request of Gorse 0.5.9 (`common/reranker`, `logics/chat.go`) and read the response.

    Returns:
        Score by item, in the order of the response, as Gorse sorts its list.
    """
    body = json.dumps({"model": "run", "query": query, "documents": documents})
    # Go escapes these characters in JSON and leaves out top_n, which is 0. It trims headers.
    for character in "<>&":
        body = body.replace(character, f"\\u{ord(character):04x}")
    headers = {"Authorization": f"Bearer {token}".strip(), "Content-Type": "application/json"}
    answer = httpx2.post(url, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return {documents[one["index"]]: one["relevance_score"] for one in answer.json()["results"]}


def test_gorse_gets_a_list_with_the_templates_of_the_guide(url: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "integrations.md"
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ranker = tomllib.loads(blocks[0])["recommend"]["ranker"]
    history = tomllib.loads(blocks[1])["query_template"]
    address = ranker["reranker_api"]["url"].replace("http://127.0.0.1:8000", url)
    # The values that Gorse gives its templates, which are those of Jinja.
    given = {
        "user": {"UserId": "user3"},
        "feedback": [{"ItemId": "item2"}, {"ItemId": "item1"}],  # the latest first
    }
    items = [
        Template(ranker["document_template"]).render(item={"ItemId": f"item{number}"})
        for number in (3, 20, 13, 8)
    ]
    for template, query in (
        (ranker["query_template"], "user:user3"),
        (history, "history:item1,item2,"),
    ):
        assert Template(template).render(given) == query
        found = ask_like_gorse(address, "secret", query=query, documents=items)
        assert list(found) == ["item20", "item8", "item3"]  # the model fails for item 13
    calm = "Thing 5\n<b>Calm</b> & quiet"
    texts = ask_like_gorse(address, "secret", query=LIKES, documents=[calm, "Thing 7"])
    assert list(texts) == ["Thing 7", calm]


def test_gorse_without_a_token_uses_a_service_without_keys(run: Path, tmp_path: Path) -> None:
    with listening_with_fakes(run, f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}") as url:
        found = ask_like_gorse(f"{url}/v1/rerank", "", query="user:user3", documents=["item3"])
    assert list(found) == ["item3"]


def test_errors_reach_the_client(client: cohere.ClientV2, url: str) -> None:
    with pytest.raises(ApiError) as unknown:
        client.rerank(model="run", query="nobody", documents=["item1"])
    assert unknown.value.status_code == 404
    assert "Unknown user 'nobody'" in unknown.value.body["detail"]
    with pytest.raises(ApiError) as rejected:
        cohere.ClientV2(api_key="guess", base_url=url).rerank(
            model="run", query="user3", documents=["item1"]
        )
    assert rejected.value.status_code == 401


def test_scores_equal_those_of_the_other_route(serve: Serve) -> None:
    web = serve()
    item_ids = ["item4", "item2", "item9"]
    body = {"user_id": "user3", "item_ids": item_ids}
    scores = {
        one["item_id"]: one["score"] for one in web.post("/v1/scores", json=body).json()["scores"]
    }
    found = rerank(web, query="user3", documents=item_ids, return_documents=True)
    assert {
        one["document"]["item_id"]: one["relevance_score"] for one in found["results"]
    } == scores
    assert rerank(web, query="user3", documents=item_ids)["results"][0].keys() == {
        "index",
        "relevance_score",
    }


def test_failed_and_empty_documents_are_listed(serve: Serve) -> None:
    found = rerank(serve(), query="user3", documents=["item13", "item2", "<br>", "item2"])
    assert [one["index"] for one in found["results"]] == [1, 3]
    assert found["results"][0]["relevance_score"] == found["results"][1]["relevance_score"]
    assert found["unscored"] == [0, 2]


def test_texts_are_scored_once_and_not_mistaken_for_items(
    serve: Serve, ranker: FakeBackend
) -> None:
    web = serve()
    first = rerank(web, query=LIKES, documents=["Thing 5", "item9"])
    ranker.batches.clear()
    assert rerank(web, query=LIKES, documents=["Thing 5", "item9"])["results"] == first["results"]
    assert ranker.batches == []
    rerank(web, query="The user likes loud things.", documents=["Thing 5"])
    assert ranker.batches == [1]
    # An item whose id is a text that was scored before.
    item = {"item_id": "Thing 5", "title": "Thing 28"}
    assert web.post("/v1/items", json=item).status_code == 201
    after = rerank(web, query=LIKES, documents=["Thing 5", "item9"])
    assert [one["index"] for one in after["results"]] == [0, 1]


def test_events_of_a_user_are_the_query(serve: Serve) -> None:
    web = serve("serve.update=event")
    assert "Unknown user 'newcomer'" in problem(web, 404, query="newcomer")
    event = {"event_id": "1", "user_id": "newcomer", "item_id": "item1", "type": "dislike"}
    web.post("/v1/events", json={"events": [event]})
    assert "no interactions" in problem(web, 422, query="newcomer")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"query": "user:somebody else"}, 404, "Unknown user 'somebody else'"),
        ({"query": "history:item1,absent"}, 404, "absent"),
        ({"query": "history:" + "item1," * 201}, 422, "201 items; at most 200"),
        ({"query": "history: ,"}, 422, "no interactions"),
        ({"query": "preference: "}, 422, "nothing after 'preference:'"),
        ({"query": "user3", "model": "rerank-v4"}, 404, "'rerank-v4' is not served"),
        ({"query": "user3", "documents": []}, 422, "documents must have at least 1 elements"),
        ({"query": "user3", "documents": [""]}, 422, "documents.0 must have at least 1"),
        ({"query": "user3", "documents": [{"image": "x"}]}, 422, "documents.0 must be"),
        ({"query": "user3", "top_n": 0}, 422, "top_n must be greater than or equal to 1"),
        ({"query": "user3", "priority": 1}, 422, "Unknown field priority"),
    ],
)
def test_bodies_that_cannot_be_used(
    serve: Serve, body: dict[str, Any], status: int, words: str
) -> None:
    assert words in problem(serve(), status, **body)


def test_baseline_cannot_score(serve: Serve, scored_run: Path) -> None:
    web = serve(folder=scored_run)
    assert "'popularity' returns no P(yes)" in problem(web, 404, query="user3", model="popularity")


def test_preference_is_rejected_if_the_model_reads_histories(serve: Serve) -> None:
    web = serve("recommend.reads=history")
    assert "reads histories" in problem(web, 422, query=LIKES)
    assert rerank(web, query="history:item1", documents=["item2"])["results"]


def test_failing_model_is_an_error(serve: Serve, ranker: FakeBackend) -> None:
    web = serve()
    ranker.fails = True
    assert "There are no scores (model_failed)" in problem(web, 503, query="user3")


def test_queries_are_read() -> None:
    assert read_query(" u 1 ") == Query(None, "u 1")
    assert read_query("preference:calm\nfilms") == Query("preference", "calm\nfilms")
    assert read_query("user:user:7") == Query("user", "user:7")
    with pytest.raises(UnscorableQueryError, match=r"nothing after 'history:'"):
        read_query("history:")


def test_example_of_the_guide_runs(url: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "integrations.md"
    block = page.read_text(encoding="utf-8").split("```python\nimport cohere\n")[1].split("```")[0]
    # The ids of this run.
    block = block.replace("http://127.0.0.1:8000", url).replace('"first"', '"secret"')
    block = block.replace("u0001", "user1").replace("v0007", "item7")
    defined: dict[str, Any] = {"cohere": cohere}
    exec(block, defined)
    assert defined["found"].results[0].index == 0


def test_request_of_the_guide_has_the_shown_response(serve: Serve) -> None:
    page = Path(__file__).parents[2] / "docs" / "integrations.md"
    match = re.search(
        r"/v1/rerank .*?-d '(.*?)'\n```\n\n```json\n(.*?)```", page.read_text(), re.DOTALL
    )
    assert match
    body = json.loads(match[1].replace("u0001", "user1").replace("v0007", "item7"))
    found, shown = rerank(serve(), **body), json.loads(match[2])
    assert found.keys() == shown.keys()
    documents = [{one["document"]["text"]: set(one["document"])} for one in shown["results"]]
    assert documents == [{"Calm cooking": {"text"}}, {"Festive cooking": {"text", "item_id"}}]
    assert [set(one) for one in found["results"]] == [set(one) for one in shown["results"]]
