"""Start of the alignment: image tokens near the embeddings of the words in the answers.

The language model already reads its own word embeddings, so a projector that maps an image to the
embeddings of its words is a good start, and finding it needs no pass of the language model. It
takes a few seconds, as much as a few steps of the training that follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Logit of a word for an image token that equals its embedding.
_SCALE: Final = 10.0
# Images of a batch, and tokens of each, drawn anew in each pass.
_BATCH: Final = 32
_TOKENS: Final = 4
_LEARNING_RATE: Final = 2e-3


def fit_words(
    projector: nn.Module,
    features: NDArray[np.float16],
    words: Sequence[Mapping[int, int]],
    embeddings: Tensor,
    *,
    epochs: int,
    seed: int,
) -> None:
    """Train a projector to predict which tokens the answers about an image contain.

    Some token of the image has to be near the embedding of each word. Words of few images count
    more (inverse document frequency), words of a single image or of all images do not count.

    Args:
        projector: The projector in float32; changed in place.
        features: Its inputs: [images, tokens, hidden].
        words: For each image, how often its answers contain each token id.
        embeddings: Input embeddings of the language model: [vocabulary, hidden].
        epochs: Passes over the images.
        seed: Seed of their order.
    """
    targets, vocabulary = _word_targets(words)
    if not vocabulary:
        return
    table = embeddings[torch.tensor(vocabulary, device=embeddings.device)].float().cpu()
    size = table.norm(dim=1).mean()
    device = next(projector.parameters()).device
    unit = (table * (_SCALE / size**2)).to(device)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    rng = np.random.default_rng([seed, 2])
    for _ in range(epochs):
        order = rng.permutation(len(features))
        for start in range(0, len(order), _BATCH):
            rows = np.sort(order[start : start + _BATCH])
            drawn = np.sort(rng.permutation(features.shape[1])[:_TOKENS])
            inputs = torch.from_numpy(features[rows][:, drawn]).to(device).float()
            tokens = projector(inputs)  # [batch, drawn, hidden]
            scores = torch.log_softmax(tokens @ unit.T, dim=-1)
            best = torch.logsumexp(scores, dim=1) - np.log(scores.shape[1])  # [batch, vocabulary]
            loss = -(best * targets[rows].to(device)).sum(dim=1).mean()
            # The language model expects vectors as long as embeddings.
            loss = loss + (tokens.norm(dim=-1) / size.to(device) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _word_targets(words: Sequence[Mapping[int, int]]) -> tuple[Tensor, list[int]]:
    """Return the weight of each word for each image, [images, vocabulary], and the words' ids."""
    counts: dict[int, int] = {}
    for own in words:
        for token in own:
            counts[token] = counts.get(token, 0) + 1
    vocabulary = sorted(token for token, n in counts.items() if 1 < n < len(words))
    columns = {token: column for column, token in enumerate(vocabulary)}
    targets = torch.zeros(len(words), len(vocabulary))
    for row, own in enumerate(words):
        for token in own:
            if token in columns:
                targets[row, columns[token]] = np.log(len(words) / counts[token])
    return targets / targets.sum(dim=1, keepdim=True).clamp(min=1e-9), vocabulary
