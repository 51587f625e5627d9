"""Tests of the start of the alignment from words."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mllm_msr.ranker.alignment.words import fit_words


def test_image_tokens_come_near_the_words_of_the_image() -> None:
    rng = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    centers = rng.normal(size=(3, 8))
    features = (centers[kinds][:, None] + 0.1 * rng.normal(size=(60, 4, 8))).astype(np.float16)
    # Word 9 is in all answers, and the word 20 + n only in that of image n.
    words = [{int(kind): 1, 9: 1, 20 + n: 1} for n, kind in enumerate(kinds)]
    torch.manual_seed(0)
    embeddings = torch.randn(100, 16)
    projector = nn.Linear(8, 16)
    fit_words(projector, features, words, embeddings, epochs=400, seed=0)
    with torch.no_grad():
        tokens = projector(torch.from_numpy(features).float()).flatten(0, 1)  # [240, 16]
    nearest = (tokens @ embeddings[:3].T).argmax(dim=1).numpy()
    assert (nearest == np.repeat(kinds, 4)).mean() > 0.95
    assert 0.5 < float(tokens.norm(dim=1).mean() / embeddings.norm(dim=1).mean()) < 2


def test_without_common_words_nothing_changes() -> None:
    projector = nn.Linear(8, 16)
    before = projector.weight.clone()
    features = np.ones((2, 4, 8), np.float16)
    fit_words(projector, features, [{1: 1}, {2: 1}], torch.ones(5, 16), epochs=3, seed=0)
    assert torch.equal(projector.weight, before)
