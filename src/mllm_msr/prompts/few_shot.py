"""Worked examples that `prompts.style=few_shot` puts before prompts for summaries and preferences.

They are in `templates/few_shot.yaml`. `templates.render` shows each one as a turn of the user,
which is the rendered template, and the answer of the assistant.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_FILE: Final = Path(__file__).parent / "templates" / "few_shot.yaml"


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """A question of a template with its answer.

    Attributes:
        item_type: Word for an item in the question, see `item_types.find_item_type`.
        data: Variables of the template, without `words`.
        answer: The answer.
    """

    item_type: str
    data: Mapping[str, object]
    answer: str


def worked_examples(name: str) -> tuple[WorkedExample, ...]:
    """Return the examples of a template.

    Args:
        name: Name of the template, without ".jinja". Templates without examples have none.
    """
    return _read().get(name, ())


@functools.cache
def _read() -> Mapping[str, tuple[WorkedExample, ...]]:
    content: Mapping[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {
        name: tuple(WorkedExample(**example) for example in examples)
        for name, examples in content.items()
    }
