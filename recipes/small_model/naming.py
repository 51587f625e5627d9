"""How often descriptions name what an image shows, against descriptions of other images."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mllm_msr.backends.smollm import SmolLMBackend
from recipes.small_model.captions import description_prompt

_PERMUTATIONS: Final = 1000


def write_descriptions(
    images: Sequence[Path], *, projector: Path | None, item_type: str
) -> list[str]:
    """Return the descriptions of images by the small model, in lower case.

    Args:
        images: The images.
        projector: Weights of the projector; the packaged ones if None.
        item_type: Word for an item in the prompt.
    """
    backend = SmolLMBackend(projector=projector, dtype="bfloat16", attention="eager")
    with contextlib.closing(backend):
        prompts = [description_prompt(path, item_type) for path in images]
        answers = {index: done.text.lower() for index, done in backend.generate(prompts)}
    return [answers[index] for index in range(len(images))]


def naming_rates(
    answers: Sequence[str], words: Sequence[Collection[str]], *, seed: int = 0
) -> dict[str, float]:
    """Return how often answers contain a right word, against answers of other images.

    Args:
        answers: Descriptions in lower case.
        words: Right words of each image in lower case.
        seed: Seed of the permutations.

    Returns:
        `named`: share of the answers that contain at least one of their words. `chance`: mean
        share if the answers are assigned to other images at random. `p`: share of these
        assignments that reach `named` (one-sided permutation test).
    """
    found = np.array([[any(word in answer for word in each) for each in words]
                      for answer in answers])  # [answer, image]  # fmt: skip
    rng = np.random.default_rng(seed)
    columns = np.arange(len(answers))
    named = float(found[columns, columns].mean())
    shares = np.array(
        [found[rng.permutation(columns), columns].mean() for _ in range(_PERMUTATIONS)]
    )
    p = (1 + int((shares >= named - 1e-9).sum())) / (1 + _PERMUTATIONS)
    return {"named": named, "chance": float(shares.mean()), "p": p}
