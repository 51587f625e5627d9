"""Accuracy on single questions about held-out covers and texts; part of `measure`.

Each question is a separate prompt with its image or text, like the recommendation prompt. The
accuracy is reported together with the share of the most frequent answer, which is the accuracy of a
model that always gives the same answer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from mllm_msr.demo_model.world import SLOTS, Values
from mllm_msr.types import ImagePart, Prompt, TextPart
from recipes.demo_model.corpus import FAMILIES, Example, Source

_FAMILY_NAMES: Final = ("image_questions", "comparison", "text_comparison", "presence")
_VALUES: Final = "|".join(value for slot in SLOTS for value in slot.values)


def quiz(
    answer: Callable[[Sequence[Prompt]], Sequence[str]],
    covers: Sequence[Path],
    shown: Sequence[Values],
    *,
    seed: int,
    n_examples: int = 400,
    min_count: int = 20,
) -> dict[str, dict[str, float]]:
    """Ask questions of several families and compute the accuracy by kind of question.

    Args:
        answer: Function that answers prompts with greedy decoding, in their order.
        covers: Image files of covers that pre-training never uses.
        shown: Slot values of each cover.
        seed: Seed of the questions.
        n_examples: Questions per family.
        min_count: Kinds of questions with fewer examples are omitted.

    Returns:
        For each kind of question, "family: question", its `accuracy`, the share of the most
        frequent answer (`majority`) and the number of questions (`n`).
    """
    found: dict[str, dict[str, float]] = {}
    for number, family in enumerate(_FAMILY_NAMES):
        source = Source(np.random.default_rng([seed, 31, number]), shown, reserved=True)
        examples = [FAMILIES[family](source) for _ in range(n_examples)]
        texts = answer([_with_cover(example, covers) for example in examples])
        pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for example, text in zip(examples, texts, strict=True):
            pairs[_kind(example)].append((text, example.turns[0]))
        for kind, of_kind in sorted(pairs.items()):
            if len(of_kind) >= min_count:
                counts = Counter(expected for _, expected in of_kind)
                found[f"{family}: {kind}"] = {
                    "accuracy": round(
                        float(np.mean([text == expected for text, expected in of_kind])), 3
                    ),
                    "majority": round(max(counts.values()) / len(of_kind), 3),
                    "n": len(of_kind),
                }
    return found


def _with_cover(example: Example, covers: Sequence[Path]) -> Prompt:
    """Return the prompt with the file of its cover instead of the placeholder."""
    if example.cover is None:
        return example.prompt
    (message,) = example.prompt.messages
    cover = ImagePart(covers[example.cover])
    parts = tuple(cover if isinstance(part, ImagePart) else part for part in message.parts)
    return replace(example.prompt, messages=(replace(message, parts=parts),))


def _kind(example: Example) -> str:
    """Return the question with an ellipsis in place of slot values and other words."""
    texts = [p.text for p in example.prompt.messages[0].parts if isinstance(p, TextPart)]
    question = texts[-1].rpartition("\n")[2]
    question = re.sub(rf"\b({_VALUES})\b", "...", question)
    return re.sub(r"(Does it name|Is) [a-z]+( named in it)?\?$", r"\1 ...\2?", question)
