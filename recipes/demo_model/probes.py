"""Accuracies on held-out examples, logged during training.

The mean loss hides slots that stay at chance level. Accuracy is therefore reported by family and
kind of word: the values of each slot, yes / no, and other words. Predictions use teacher forcing;
`measure` evaluates generated text instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mllm_msr.demo_model.world import IMAGE_SLOTS, MEASURE_SEEDS, SLOTS
from recipes.demo_model.batches import (
    LABELS,
    REPEATS,
    Batch,
    collate,
    encode,
    image_tokens,
    label_batch,
    repeat_batch,
)
from recipes.demo_model.corpus import FAMILIES, Source
from recipes.demo_model.learner import Learner
from recipes.demo_model.pool import CoverPool


def probe_batches(pool: CoverPool, tokenizer: Any, *, n_examples: int = 32) -> list[Batch]:
    """Make fixed examples of every family, with names and covers that training never uses.

    Args:
        pool: Pool of held-out covers.
        tokenizer: Tokenizer of the model.
        n_examples: Examples per family.
    """
    covers = pool.values()
    batches = [label_batch(pool, np.arange(min(256, len(covers))), rng=None)]
    rng = np.random.default_rng(MEASURE_SEEDS.start)
    batches.append(repeat_batch(len(tokenizer), n_tokens=1_000, rng=rng))
    for number, (name, family) in enumerate(FAMILIES.items()):
        source = Source(np.random.default_rng([MEASURE_SEEDS.start, number]), covers, reserved=True)
        examples = [family(source) for _ in range(n_examples)]
        n_image_tokens = image_tokens(pool)
        encoded = [encode(one, tokenizer, image_tokens=n_image_tokens) for one in examples]
        batches.append(collate(name, examples, encoded, pool=pool, rng=None))
    return batches


def probe(learner: Learner, batches: Sequence[Batch], tokenizer: Any) -> dict[str, float]:
    """Compute accuracies in [0, 1], with keys "family/kind of word"."""
    kinds: dict[int, str] = {}
    for slot in SLOTS:
        for value in slot.values:
            for form in (value, f" {value}", value.capitalize()):
                kinds[tokenizer.encode(form)[0]] = slot.name
    for word in ("yes", "no"):
        kinds[tokenizer.encode(word)[0]] = "yes_no"
    found: dict[str, list[bool]] = defaultdict(list)
    learner.eval()
    with torch.no_grad():
        for batch in batches:
            _, predicted, targets = learner(batch)
            for kind, is_correct in _compare(batch, predicted, targets, kinds):
                found[f"{batch.family}/{kind}"].append(is_correct)
    learner.train()
    return {name: round(float(np.mean(values)), 3) for name, values in sorted(found.items())}


def _compare(
    batch: Batch, predicted: torch.Tensor, targets: torch.Tensor, kinds: Mapping[int, str]
) -> Iterator[tuple[str, bool]]:
    """Yield for each target its kind and whether the prediction is correct."""
    if batch.family == LABELS:
        for column, slot in enumerate(IMAGE_SLOTS):
            for is_correct in (predicted[:, column] == targets[:, column]).tolist():
                yield SLOTS[slot].name, is_correct
        return
    for prediction, target in zip(predicted.tolist(), targets.tolist(), strict=True):
        kind = "token" if batch.family == REPEATS else kinds.get(target, "other")
        yield kind, prediction == target
