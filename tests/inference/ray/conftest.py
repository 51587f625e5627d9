"""Fixtures of the Ray tests: prompts, a prompt log, and the shutdown of Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mllm_msr.types import Message, Prompt, TextPart

Answer = Callable[[Prompt], str]


@pytest.fixture(scope="session", autouse=True)
def _shut_down_ray() -> Iterator[None]:
    """Shut Ray down after the session. The first test with a worker starts it."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def prompts() -> list[Prompt]:
    """Return twelve different prompts."""
    return [
        Prompt((Message("user", (TextPart(f"Question {number}."),)),), max_new_tokens=8)
        for number in range(12)
    ]


@pytest.fixture
def logged(tmp_path: Path) -> Callable[[Answer], Answer]:
    """Return a wrapper that makes an answer function log its prompts in `prompts.txt`."""
    log = tmp_path / "prompts.txt"

    def wrap(answer: Answer) -> Answer:
        def logging_answer(prompt: Prompt) -> str:
            with log.open("a") as file:
                file.write(f"{prompt.text}\n")
            return answer(prompt)

        return logging_answer

    return wrap
