"""Answers that end within a thought which the prompt began, so that no tag shows it.

Some chat templates end the prompt with the opening tag of a thought. If the server has no reasoning
parser, an answer cut at the length limit then is the beginning of a thought, without any tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from mllm_msr.prompts.thoughts import closes_thought
from mllm_msr.types import Completion

_OPENING_TAG: Final = "<think>"


class CutThoughts:
    """Restores the opening tag of thoughts that were cut.

    Args:
        probe: Returns whether the chat template opens a thought; called for the first answer that
            was cut.
    """

    def __init__(self, probe: Callable[[], Awaitable[bool]]) -> None:
        self._probe = probe
        self._lock = asyncio.Lock()
        self._opens_thoughts: bool | None = None

    async def restore(self, completion: Completion) -> Completion:
        """Return a completion, with the opening tag if it ends within a thought of the prompt."""
        if completion.finish_reason != "length" or closes_thought(completion.text):
            return completion
        async with self._lock:
            if self._opens_thoughts is None:
                self._opens_thoughts = await self._probe()
        if not self._opens_thoughts:
            return completion
        return replace(completion, text=f"{_OPENING_TAG}{completion.text}")
