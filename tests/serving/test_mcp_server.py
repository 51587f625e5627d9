"""Tests with the client of the official SDK: over stdio with a real process, and in this one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client

from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.mcp_server import make_server
from online_worlds import FakeBackend

Ask = Callable[..., Awaitable[Any]]


def asking(client: Client) -> Ask:
    """Return a function that calls a tool and returns its result, or its error as a text."""

    async def ask(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments)
        return result.content[0].text if result.is_error else result.structured_content

    return ask


def test_assistant_starts_the_command_and_uses_the_tools(run: Path, tmp_path: Path) -> None:
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mllm_msr", "mcp", "--run", str(run), state, "serve.model_timeout=60"],
    )

    async def use() -> None:
        async with Client(server) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"recommend", "explain", "record_event"}
            assert tools["explain"].annotations.read_only_hint
            assert tools["record_event"].annotations.read_only_hint is False
            assert tools["recommend"].input_schema["properties"]["k"]["maximum"] == 100
            ask = asking(client)
            found = await ask("recommend", user_id="user3", k=3)
            assert [one["rank"] for one in found["items"]] == [1, 2, 3]
            assert found["preference"] == "The user appears to have a preference for things."
            disliked = found["items"][0]["item_id"]
            event = {"user_id": "user3", "item_id": disliked, "type": "dislike"}
            stored = await ask("record_event", **event)
            assert stored["status"] == "accepted"
            repeated = await ask("record_event", **event, event_id=stored["event_id"])
            assert repeated == {"event_id": stored["event_id"], "status": "duplicate"}
            after = await ask("recommend", user_id="user3", k=30)
            assert disliked not in {one["item_id"] for one in after["items"]}
            explained = await ask("explain", user_id="user3", item_id=disliked)
            assert 0 < explained["score"] < 1

    asyncio.run(asyncio.wait_for(use(), 120))


@pytest.fixture
def in_process(start: Callable[[], OnlineEngine]) -> Callable[[Callable[[Ask], Any]], None]:
    """Return a function that runs a coroutine with a connected client, and stops the engine."""

    def use(scenario: Callable[[Ask], Any]) -> None:
        async def connect() -> None:
            engine = start()
            await engine.start()
            try:
                async with Client(make_server(engine)) as client:
                    await scenario(asking(client))
            finally:
                await engine.stop()

        asyncio.run(connect())

    return use


def test_explanation_has_what_the_service_knows(in_process, ranker: FakeBackend) -> None:
    async def scenario(ask: Ask) -> None:
        await ask("record_event", user_id="user3", item_id="item5")
        found = await ask("explain", user_id="user3", item_id="item9")
        assert (found["title"], found["latest"][0]) == ("Thing 9", "Thing 5")
        assert len(found["latest"]) == 5
        assert (0 < found["score"] < 1, found["reason"]) == (True, None)
        assert found["preference"].startswith("The user appears to have a preference")
        assert "thing" in found["summary"].lower()
        failed = await ask("explain", user_id="user3", item_id="item13")
        assert (failed["score"], failed["reason"]) == (None, "scoring_failed")

    in_process(scenario)


def test_history_is_enough_for_a_list(in_process) -> None:
    async def scenario(ask: Ask) -> None:
        found = await ask("recommend", history=["item1", "item2"], k=2)
        assert (len(found["items"]), found["fallback_reason"]) == (2, None)

    in_process(scenario)


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("recommend", {}, "Neither is given"),
        ("recommend", {"user_id": "user3", "history": ["item1"]}, "Both are given"),
        ("recommend", {"history": ["absent"]}, "absent"),
        ("recommend", {"user_id": "user3", "k": 0}, "greater than or equal to 1"),
        ("explain", {"user_id": "nobody", "item_id": "item1"}, "Unknown user 'nobody'"),
        ("explain", {"user_id": "user3", "item_id": "absent"}, "There is no item 'absent'"),
        ("record_event", {"user_id": " u", "item_id": "item1"}, "white space"),
        ("record_event", {"user_id": "u", "item_id": "item1", "type": "like"}, "'dislike'"),
    ],
)
def test_errors_reach_the_assistant(
    in_process, tool: str, arguments: dict[str, Any], words: str
) -> None:
    async def scenario(ask: Ask) -> None:
        answer = await ask(tool, **arguments)
        assert isinstance(answer, str)
        assert words in answer

    in_process(scenario)
