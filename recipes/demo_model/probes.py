"""What is logged all the time: accuracy per slot, word and family, on unseen material.

Mean loss hides a slot that stays at chance, so every kind of word is counted alone: each slot's
value, yes / no, names and other words. Predictions are teacher-forced; `measure` generates.
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
    """Fixed examples of every family, with names and covers that training never shows."""
    covers = pool.values()
    batches = [label_batch(pool, np.arange(min(256, len(covers))), rng=None)]
    rng = np.random.default_rng(MEASURE_SEEDS.start)
    batches.append(repeat_batch(len(tokenizer), n_tokens=1_000, rng=rng))
    for number, (name, family) in enumerate(FAMILIES.items()):
        source = Source(np.random.default_rng([MEASURE_SEEDS.start, number]), covers, reserved=True)
        examples = [family(source) for _ in range(n_examples)]
        encoded = [encode(one, tokenizer, image_tokens=image_tokens(pool)) for one in examples]
        batches.append(collate(name, examples, encoded, pool=pool, rng=None))
    return batches


def probe(learner: Learner, batches: Sequence[Batch], tokenizer: Any) -> dict[str, float]:
    """Accuracies in [0, 1], keyed "family/kind"."""
    kinds = _kinds(tokenizer)
    found: dict[str, list[bool]] = defaultdict(list)
    learner.eval()
    with torch.no_grad():
        for batch in batches:
            _, predicted, truths = learner(batch)
            for kind, hit in _judged(batch, predicted, truths, kinds):
                found[f"{batch.family}/{kind}"].append(hit)
    learner.train()
    return {name: round(float(np.mean(hits)), 3) for name, hits in sorted(found.items())}


def _kinds(tokenizer: Any) -> Mapping[int, str]:
    kinds = {}
    for slot in SLOTS:
        for value in slot.values:
            for form in (value, f" {value}", value.capitalize()):
                kinds[tokenizer.encode(form)[0]] = slot.name
    for word in ("yes", "no"):
        kinds[tokenizer.encode(word)[0]] = "yes_no"
    return kinds


def _judged(
    batch: Batch, predicted: torch.Tensor, truths: torch.Tensor, kinds: Mapping[int, str]
) -> Iterator[tuple[str, bool]]:
    if batch.family == LABELS:
        for column, slot in enumerate(IMAGE_SLOTS):
            for hit in (predicted[:, column] == truths[:, column]).tolist():
                yield SLOTS[slot].name, hit
        return
    for guess, truth in zip(predicted.tolist(), truths.tolist(), strict=True):
        kind = "token" if batch.family == REPEATS else kinds.get(truth, "other")
        yield kind, guess == truth
