"""Run folder made with the mock backend, a fake backend, and requests to a service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

from starlette.testclient import TestClient

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.types import ChoiceScores, Completion, Prompt


def make_run(folder: Path, *more: str, baselines: Sequence[str] = ()) -> Path:
    """Run the stages prepare, summarize and infer, and score baselines if there are some."""
    data = worlds.write_files(folder / "data", n_users=12, n_items=30)
    overrides = ["retrieve.collaborative=popularity", "retrieve.order=model", *more]
    if baselines:
        overrides.append(f"score.baselines=[{', '.join(baselines)}]")
    settings = load_settings("default", worlds.settings(data, *overrides), environment={})
    with Pipeline.open(folder / "run", settings) as pipeline:
        for name in ("prepare", "summarize", "infer", *(["score"] if baselines else [])):
            pipeline.run_stage(name)
    return folder / "run"


@final
class FakeBackend(Backend):
    """Backend that scores items by the number in their title; it can fail or block.

    The prompt of item 13 always fails.

    Attributes:
        fails: Whether every call raises `BackendError`.
        is_garbled: Function that returns for a prompt's text whether the answer is noise.
        gate: Calls block while this event is not set.
        batches: Number of prompts of each call.
        threads: Names of the threads that called the backend.
        closed: Whether `close` was called.
    """

    def __init__(self) -> None:
        self.fails = False
        self.is_garbled: Callable[[str], bool] = lambda _: False
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.closed = False

    @property
    def fingerprint(self) -> str:
        return "fake"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for index, prompt in enumerate(self._receive(prompts)):
            if self.is_garbled(_text(prompt)):
                yield index, Completion("#?! " * 9)
            else:
                text = f"The user appears to have a preference for mood {index}."
                yield index, Completion(text)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(self._receive(prompts)):
            text = _text(prompt)
            number = int(text.rpartition("Thing ")[2].split('"')[0]) if "Thing " in text else 0
            if number == 13:
                yield index, ChoiceScores((), error="item 13 fails")
            else:
                yield index, ChoiceScores((-0.01 * (40 - number), -1.0))

    def close(self) -> None:
        self.closed = True

    def _receive(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        received = list(prompts)
        self.batches.append(len(received))
        self.threads.add(threading.current_thread().name)
        self.gate.wait(60)
        if self.fails:
            raise BackendError("The fake model fails. Try again later.")
        return received


def _text(prompt: Prompt) -> str:
    return "".join(getattr(part, "text", "") for turn in prompt.messages for part in turn.parts)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, for at most 20 seconds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def event(event_id: str, item_id: str, user_id: str = "newcomer") -> dict[str, str]:
    """Return an event of a request to the service."""
    return {"event_id": event_id, "user_id": user_id, "item_id": item_id}


def send(web: TestClient, *events: dict[str, str]) -> list[str]:
    """Send events to the service and return their statuses."""
    answer = web.post("/v1/events", json={"events": events})
    assert answer.status_code == 202, answer.text
    return [one["status"] for one in answer.json()["events"]]


def ask(web: TestClient, **body: Any) -> dict[str, Any]:
    """Request a list and return the response."""
    answer = web.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()
