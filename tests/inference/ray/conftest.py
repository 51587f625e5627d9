"""One small Ray instance for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mllm_msr.backends.mock import prompt_text
from mllm_msr.types import Message, Prompt, TextPart

Answer = Callable[[Prompt], str]


@pytest.fixture(scope="session", autouse=True)
def _ray_ends() -> Iterator[None]:
    """Leave no Ray behind; the first test that asks a worker starts it."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def prompts() -> list[Prompt]:
    """Twelve different questions."""
    return [
        Prompt((Message("user", (TextPart(f"Question {number}."),)),), max_new_tokens=8)
        for number in range(12)
    ]


@pytest.fixture
def written_down(tmp_path: Path) -> Callable[[Answer], Answer]:
    """An answer that leaves a line in `asked.txt` for every prompt, whichever process is asked."""
    asked = tmp_path / "asked.txt"

    def wrap(answer: Answer) -> Answer:
        def noting(prompt: Prompt) -> str:
            with asked.open("a") as file:
                file.write(f"{prompt_text(prompt)}\n")
            return answer(prompt)

        return noting

    return wrap
