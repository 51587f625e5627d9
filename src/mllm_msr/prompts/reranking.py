"""Prompts of rerankers: an instruction, a query and a document, each a turn of its own.

Rerankers such as Qwen3-Reranker and Qwen3-VL-Reranker tell whether a document suits a query. Chat
templates that know these roles print them; for all others, and for endpoints, the turns become the
dialogue that the models were trained with.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Final

from mllm_msr.types import Message, Prompt, TextPart

# The turn of the system with which the models were trained.
_SYSTEM: Final = Path(__file__).parent / "templates" / "reranker_system.txt"
# What precedes the parts of a turn in the turn of the user.
_LEADS: Final = {"system": "<Instruct>: ", "query": "<Query>:", "document": "\n<Document>:"}


def is_reranking(prompt: Prompt) -> bool:
    """Return whether a prompt has the turns of a reranker."""
    return any(message.role == "document" for message in prompt.messages)


def as_dialogue(prompt: Prompt) -> Prompt:
    """Return a reranker's prompt as a turn of the system and one of the user.

    Args:
        prompt: Prompt with the turns system (the instruction), query and document.
    """
    parts = [
        part
        for message in prompt.messages
        for part in (TextPart(_LEADS[message.role]), *message.parts)
    ]
    turns = (Message("system", (TextPart(_system()),)), Message("user", tuple(parts)))
    return replace(prompt, messages=turns)


@functools.cache
def _system() -> str:
    return _SYSTEM.read_text(encoding="utf-8").strip()
