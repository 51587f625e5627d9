"""Training batches: the curriculum over families, and examples as tensors.

A batch is a pure function of (seed, step, part), so a resumed run sees the same batches as an
uninterrupted one.
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

# Two families without text, besides those of `corpus.FAMILIES`.
LABELS: Final = "cover_labels"  # classification of the image slots of covers
REPEATS: Final = "repeats"  # random tokens that are repeated, the simplest form of copying

# Step from which titles imitate real catalogs (`corpus.Source.realistic`).
REAL_TITLES_FROM: Final = 5000

# Mixture of families by first step: recognizing images, then copying, then comparing, and finally
# reading titles that are not from the synthetic world. The order of the names affects random draws.
CURRICULUM: Final[tuple[tuple[int, Mapping[str, float]], ...]] = (
    (0, {LABELS: 1}),
    (600, {LABELS: 0.3, REPEATS: 1.5, "copying": 2, "text_summary": 2, "fusion": 1.5,
           "image_questions": 2, "presence": 2, "image_description": 1, "preference_first": 1,
           "text_comparison": 1.5}),
    (1200, {LABELS: 0.1, REPEATS: 0.6, "copying": 1, "text_summary": 1.4, "fusion": 0.7,
            "image_questions": 2.5, "presence": 1.5, "image_description": 0.3,
            "preference_first": 1.2, "preference_update": 2.5, "preference_direct": 0.4,
            "text_comparison": 2, "comparison": 4, "choice_of_two": 0.2}),
    (3000, {LABELS: 0.1, REPEATS: 0.4, "copying": 1, "text_summary": 1.4, "fusion": 0.7,
            "image_questions": 1.5, "presence": 0.8, "image_description": 0.3,
            "preference_first": 1.6, "preference_update": 3, "preference_direct": 0.8,
            "text_comparison": 2.5, "comparison": 5.5, "choice_of_two": 0.2}),
    (REAL_TITLES_FROM, {LABELS: 0.1, REPEATS: 0.4, "copying": 1, "text_summary": 6, "fusion": 2,
                    "image_questions": 1.5, "presence": 1.2, "image_description": 0.3,
                    "preference_first": 1.6, "preference_update": 3, "preference_direct": 0.8,
                    "text_comparison": 2.5, "comparison": 5, "choice_of_two": 0.2}),
)  # fmt: skip

_BATCH_STREAM: Final = 101


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one family as tensors.

    Attributes:
        family: Name of the family.
        input_ids: int64 [batch, length], padded on the right.
        loss_mask: bool [batch, length], True where a token is a target of the loss.
        pixels: float32 [images, 3, size, size], normalized to [-1, 1]; `None` without images.
        codes: int64 [images, slots], the values that the images show.
    """

    family: str
    input_ids: Tensor
    loss_mask: Tensor
    pixels: Tensor | None
    codes: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        return Batch(
            self.family,
            self.input_ids.to(device),
            self.loss_mask.to(device),
            None if self.pixels is None else self.pixels.to(device),
            None if self.codes is None else self.codes.to(device),
        )


def family_at(step: int, *, seed: int, part: int = 0) -> str:
    """Draw the family of one part of a step."""
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
    """Make the batch of one part of a step.

    Args:
        step: Number of the step.
        seed: Seed of the run, in `world.PRETRAINING_SEEDS`.
        pool: Pool of covers.
        covers: `pool.values()`, computed once.
        tokenizer: Tokenizer of the model.
        n_tokens: Approximate number of tokens in the batch, padding included.
        part: Number of the part; each part of a step may train another family.
    """
    rng = np.random.default_rng([seed, _BATCH_STREAM + 1, step, part])
    family = family_at(step, seed=seed, part=part)
    if family == LABELS:
        indices = rng.integers(len(covers), size=max(2, n_tokens // 40))
        return label_batch(pool, indices, rng=rng)
    if family == REPEATS:
        return repeat_batch(len(tokenizer), n_tokens=n_tokens, rng=rng)
    examples: list[Example] = []
    longest = 0
    source = Source(rng, covers, realistic=step >= REAL_TITLES_FROM)
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
    """Return the number of tokens of one cover."""
    return int((pool.pixels.shape[1] // patch_size) ** 2)


def encode(example: Example, tokenizer: Any, *, image_tokens: int) -> tuple[list[int], list[bool]]:
    """Tokenize a dialogue.

    Args:
        example: The dialogue.
        tokenizer: Tokenizer of the model.
        image_tokens: Number of tokens of a cover.

    Returns:
        Token ids, and whether each of them is a target of the loss.
    """
    first = "".join(
        part.text if isinstance(part, TextPart) else IMAGE * image_tokens
        for part in example.prompt.messages[0].parts
    )
    pieces = dialogue_text(first, example.turns)
    encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in pieces])
    ids: list[int] = []
    loss_mask: list[bool] = []
    for encoding, (_, is_target) in zip(encodings, pieces, strict=True):
        ids += encoding.ids
        loss_mask += [is_target] * len(encoding.ids)
    return ids, loss_mask


def collate(
    family: str,
    examples: Sequence[Example],
    encoded: Sequence[tuple[list[int], list[bool]]],
    *,
    pool: CoverPool,
    rng: np.random.Generator | None,
) -> Batch:
    """Pad and stack encoded examples.

    Args:
        family: Name of their family.
        examples: The dialogues.
        encoded: Result of `encode` for each of them.
        pool: Pool of covers.
        rng: Generator for image augmentation, `None` for none.
    """
    length = -(-max(len(ids) for ids, _ in encoded) // 16) * 16
    input_ids = torch.zeros(len(encoded), length, dtype=torch.long)
    loss_mask = torch.zeros(len(encoded), length, dtype=torch.bool)
    for row, (ids, is_target) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        loss_mask[row, : len(ids)] = torch.tensor(is_target)
    shown = [example.cover for example in examples if example.cover is not None]
    pixels = _pixels(pool, np.array(shown), rng) if shown else None
    codes = torch.from_numpy(pool.codes[shown].astype(np.int64)) if shown else None
    return Batch(family, input_ids, loss_mask, pixels, codes)


def label_batch(pool: CoverPool, indices: np.ndarray, *, rng: np.random.Generator | None) -> Batch:
    """Make a batch of covers without text, for classification."""
    none = torch.zeros(0, 0)
    codes = torch.from_numpy(pool.codes[indices].astype(np.int64))
    return Batch(LABELS, none.long(), none.bool(), _pixels(pool, indices, rng), codes)


def repeat_batch(vocabulary: int, *, n_tokens: int, rng: np.random.Generator) -> Batch:
    """Make a batch of repeated random tokens; all tokens after the first occurrence are targets."""
    length = int(rng.integers(4, 65))
    n_repeats = max(2, 64 // length)
    shape = (max(1, n_tokens // (length * n_repeats)), length)
    once = torch.from_numpy(rng.integers(len(SPECIAL_TOKENS), vocabulary, size=shape))
    input_ids = once.repeat(1, n_repeats)  # [batch, n_repeats * length]
    loss_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    loss_mask[:, length:] = True
    return Batch(REPEATS, input_ids, loss_mask, None, None)


def _pixels(pool: CoverPool, indices: np.ndarray, rng: np.random.Generator | None) -> Tensor:
    """Normalize covers; with a generator, also flip and shift them at random."""
    images = pool.pixels[indices]
    if rng is not None:
        flipped = rng.random(len(images)) < 0.5
        images[flipped] = images[flipped, :, ::-1]
        down, right = (int(n) for n in rng.integers(-4, 5, 2))
        images = np.roll(images, (down, right), axis=(1, 2))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # [images, 3, size, size]
    return pixels / 127.5 - 1.0
