"""Examples to tensors: the training batches of the packaged model.

A batch is a pure function of (seed, step, part), so that a run that was stopped continues with the
batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mllm_msr.types import TextPart
from recipes.demo_model.architecture import IMAGE, SPECIAL_TOKENS, dialogue_text
from recipes.demo_model.corpus import FAMILIES, Example, Source
from recipes.demo_model.pool import CoverPool

LABELS: Final = "cover_labels"  # covers without text: a cover's slots by classification
REPEATS: Final = "repeats"  # random tokens, then the same again: copying in its purest form

# The step from which titles are like those of the world outside (`corpus.Source`).
OUTSIDE_FROM: Final = 5000

# From which step on which mixture of families is trained: to see, to repeat, to compare, and last
# to leave the generated world.
CURRICULUM: Final[tuple[tuple[int, Mapping[str, float]], ...]] = (
    (0, {LABELS: 1}),
    (600, {LABELS: 0.3, REPEATS: 1.5, "copying": 2, "text_summary": 2, "fusion": 1.5,
           "picture_questions": 2, "presence": 2, "image_description": 1, "preference_first": 1,
           "text_comparison": 1.5}),
    (1200, {LABELS: 0.1, REPEATS: 0.6, "copying": 1, "text_summary": 1.4, "fusion": 0.7,
            "picture_questions": 2.5, "presence": 1.5, "image_description": 0.3,
            "preference_first": 1.2, "preference_update": 2.5, "preference_direct": 0.4,
            "text_comparison": 2, "comparison": 4, "choice_of_two": 0.2}),
    (3000, {LABELS: 0.1, REPEATS: 0.4, "copying": 1, "text_summary": 1.4, "fusion": 0.7,
            "picture_questions": 1.5, "presence": 0.8, "image_description": 0.3,
            "preference_first": 1.6, "preference_update": 3, "preference_direct": 0.8,
            "text_comparison": 2.5, "comparison": 5.5, "choice_of_two": 0.2}),
    (OUTSIDE_FROM, {LABELS: 0.1, REPEATS: 0.4, "copying": 1, "text_summary": 6, "fusion": 2,
                    "picture_questions": 1.5, "presence": 1.2, "image_description": 0.3,
                    "preference_first": 1.6, "preference_update": 3, "preference_direct": 0.8,
                    "text_comparison": 2.5, "comparison": 5, "choice_of_two": 0.2}),
)  # fmt: skip

_BATCH_STREAM: Final = 101


@dataclass(frozen=True, slots=True)
class Batch:
    """One family's examples as tensors.

    Attributes:
        family: Name of the family.
        input_ids: int64 [batch, length], padded right.
        learn: bool [batch, length], True where a token has to be predicted.
        pixels: float32 [pictures, 3, size, size], normalised to [-1, 1]; None without pictures.
        codes: int64 [pictures, slots], what the pictures show.
    """

    family: str
    input_ids: Tensor
    learn: Tensor
    pixels: Tensor | None
    codes: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            self.family,
            self.input_ids.to(device),
            self.learn.to(device),
            None if self.pixels is None else self.pixels.to(device),
            None if self.codes is None else self.codes.to(device),
        )


def family_at(step: int, *, seed: int, part: int = 0) -> str:
    """The family that a part of a step trains."""
    mixture = next(mix for start, mix in reversed(CURRICULUM) if step >= start)
    weights = np.array(list(mixture.values()))
    rng = np.random.default_rng([seed, _BATCH_STREAM, step, part])
    return str(rng.choice(list(mixture), p=weights / weights.sum()))


def training_batch(
    step: int,
    *,
    seed: int,
    pool: CoverPool,
    covers: Sequence[Any],
    tokenizer: Any,
    n_tokens: int,
    part: int = 0,
) -> Batch:
    """The batch of a step, or of one part of it.

    Args:
        step: Number of the step.
        part: Number of the part; a step may train several families.
        seed: Seed of the run, out of `world.PRETRAINING_SEEDS`.
        pool: Covers to show.
        covers: `pool.values()`, computed once.
        tokenizer: The model's tokenizer.
        n_tokens: About how many tokens the batch should hold, padding included.
    """
    rng = np.random.default_rng([seed, _BATCH_STREAM + 1, step, part])
    family = family_at(step, seed=seed, part=part)
    if family == LABELS:
        chosen = rng.integers(len(covers), size=max(2, n_tokens // 40))
        return label_batch(pool, chosen, rng=rng)
    if family == REPEATS:
        return repeat_batch(len(tokenizer), n_tokens=n_tokens, rng=rng)
    examples: list[Example] = []
    longest = 0
    source = Source(rng, covers, outside=step >= OUTSIDE_FROM)
    encoded: list[tuple[list[int], list[bool]]] = []
    while True:
        example = FAMILIES[family](source)
        row = encode(example, tokenizer, image_tokens=image_tokens(pool))
        if encoded and max(longest, len(row[0])) * (len(encoded) + 1) > n_tokens:
            break
        longest = max(longest, len(row[0]))
        examples.append(example)
        encoded.append(row)
    return collate(family, examples, encoded, pool=pool, rng=rng)


def image_tokens(pool: CoverPool, *, patch_size: int = 16) -> int:
    """Number of tokens that one cover takes."""
    return int((pool.pixels.shape[1] // patch_size) ** 2)


def encode(example: Example, tokenizer: Any, *, image_tokens: int) -> tuple[list[int], list[bool]]:
    """Token ids of a dialogue, and which of them are to be learnt."""
    first = "".join(
        part.text if isinstance(part, TextPart) else IMAGE * image_tokens
        for part in example.prompt.messages[0].parts
    )
    pieces = dialogue_text(first, example.turns)
    encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in pieces])
    ids: list[int] = []
    learn: list[bool] = []
    for encoding, (_, wanted) in zip(encodings, pieces, strict=True):
        ids += encoding.ids
        learn += [wanted] * len(encoding.ids)
    return ids, learn


def collate(
    family: str,
    examples: Sequence[Example],
    encoded: Sequence[tuple[list[int], list[bool]]],
    *,
    pool: CoverPool,
    rng: np.random.Generator | None,
) -> Batch:
    """Pad and stack; covers are varied a little where a generator is given."""
    length = -(-max(len(ids) for ids, _ in encoded) // 16) * 16
    input_ids = torch.zeros(len(encoded), length, dtype=torch.long)
    learn = torch.zeros(len(encoded), length, dtype=torch.bool)
    for row, (ids, wanted) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        learn[row, : len(ids)] = torch.tensor(wanted)
    shown = [example.cover for example in examples if example.cover is not None]
    pixels = _pixels(pool, np.array(shown), rng) if shown else None
    codes = torch.from_numpy(pool.codes[shown].astype(np.int64)) if shown else None
    return Batch(family, input_ids, learn, pixels, codes)


def label_batch(pool: CoverPool, chosen: np.ndarray, *, rng: np.random.Generator | None) -> Batch:
    """Covers alone, for classification."""
    none = torch.zeros(0, 0)
    codes = torch.from_numpy(pool.codes[chosen].astype(np.int64))
    return Batch(LABELS, none.long(), none.bool(), _pixels(pool, chosen, rng), codes)


def repeat_batch(vocabulary: int, *, n_tokens: int, rng: np.random.Generator) -> Batch:
    """Random ordinary tokens repeated twice or more; all but the first round is learnt."""
    length = int(rng.integers(4, 65))
    rounds = max(2, 64 // length)
    shape = (max(1, n_tokens // (length * rounds)), length)
    once = torch.from_numpy(rng.integers(len(SPECIAL_TOKENS), vocabulary, size=shape))
    input_ids = once.repeat(1, rounds)  # [batch, rounds * length]
    learn = torch.zeros_like(input_ids, dtype=torch.bool)
    learn[:, length:] = True
    return Batch(REPEATS, input_ids, learn, None, None)


def _pixels(pool: CoverPool, chosen: np.ndarray, rng: np.random.Generator | None) -> Tensor:
    images = pool.pixels[chosen]
    if rng is not None:
        flipped = rng.random(len(images)) < 0.5
        images[flipped] = images[flipped, :, ::-1]
        down, right = (int(n) for n in rng.integers(-4, 5, 2))
        images = np.roll(images, (down, right), axis=(1, 2))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # [pictures, 3, size, size]
    return pixels / 127.5 - 1.0
