"""Single questions about unseen covers and texts: what the packaged model knows when it is asked.

Part of `measure`. Every question is asked alone, with its picture or text, as the recommendation
question is; the share of the most frequent answer stands beside the share of right ones, so that
always saying the same cannot pass for knowledge.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from mllm_msr.demo_model.world import SLOTS, Values
from mllm_msr.types import ImagePart, Prompt, TextPart
from recipes.demo_model.corpus import FAMILIES, Example, Source

_ASKED: Final = ("picture_questions", "comparison", "text_comparison", "presence")
_VALUES: Final = "|".join(value for slot in SLOTS for value in slot.values)


def quiz(
    answer: Callable[[Sequence[Prompt]], Sequence[str]],
    covers: Sequence[Path],
    shown: Sequence[Values],
    *,
    seed: int,
    n_examples: int = 400,
    fewest: int = 20,
) -> dict[str, dict[str, float]]:
    """Ask questions of several families and count what is right.

    Args:
        answer: Greedy answers to prompts, in their order.
        covers: Files of covers that pre-training never shows.
        shown: What each cover shows.
        seed: Seed of the questions.
        n_examples: Questions per family.
        fewest: Kinds of question asked less often are left out.

    Returns:
        For each kind of question, "family: question", the shares `right` and `majority` and the
        number `n`.
    """
    found: dict[str, dict[str, float]] = {}
    for number, family in enumerate(_ASKED):
        source = Source(np.random.default_rng([seed, 31, number]), shown, reserved=True)
        examples = [FAMILIES[family](source) for _ in range(n_examples)]
        said = answer([_with_cover(example, covers) for example in examples])
        kinds: dict[str, list[tuple[bool, str]]] = defaultdict(list)
        for example, text in zip(examples, said, strict=True):
            kinds[_kind(example)].append((text == example.turns[0], example.turns[0]))
        for kind, hits in sorted(kinds.items()):
            if len(hits) >= fewest:
                found[f"{family}: {kind}"] = _shares(hits)
    return found


def _with_cover(example: Example, covers: Sequence[Path]) -> Prompt:
    if example.cover is None:
        return example.prompt
    (message,) = example.prompt.messages
    cover = ImagePart(covers[example.cover])
    parts = tuple(cover if isinstance(part, ImagePart) else part for part in message.parts)
    return replace(example.prompt, messages=(replace(message, parts=parts),))


def _kind(example: Example) -> str:
    texts = [p.text for p in example.prompt.messages[0].parts if isinstance(p, TextPart)]
    question = texts[-1].rpartition("\n")[2]
    question = re.sub(rf"\b({_VALUES})\b", "...", question)
    return re.sub(r"(Does it name|Is) [a-z]+( named in it)?\?$", r"\1 ...\2?", question)


def _shares(hits: Sequence[tuple[bool, str]]) -> dict[str, float]:
    answers: Mapping[str, int] = Counter(truth for _, truth in hits)
    return {
        "right": round(float(np.mean([hit for hit, _ in hits])), 3),
        "majority": round(max(answers.values()) / len(hits), 3),
        "n": len(hits),
    }
