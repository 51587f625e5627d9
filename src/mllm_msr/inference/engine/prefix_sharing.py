"""Prompts that begin alike: what they share goes through the model once.

The recommender's prompt begins with the candidate's image and the instruction (Figure 3 of the
paper), so all users who meet an item share about half of their prompts. The engine asks here which
prompts belong together, runs each shared beginning once, and runs the rest of every prompt upon
the keys and values that were kept. The result is that of the whole prompt, not an approximation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_msr.inference.engine.prefix_cache import Layers, PrefixCache
from mllm_msr.models.inputs import Rendered
from mllm_msr.models.prefix_sharing import common_prefix_length

# What two prompts must have in common to share it, and what makes beginnings identical.
Prefix = tuple[tuple[Path, ...], tuple[int, ...]]

# Lengths of shared text are cut to multiples of this, so that several groups fit one batch; less
# than that is not worth a pass of its own.
_STEP: Final = 16


def arrange(prompts: Sequence[Rendered], *, image_token_id: int | None) -> list[tuple[int, int]]:
    """Put prompts that begin alike side by side.

    Images and all that stands between them belong to the shared beginning or nothing does: what
    follows it is text.

    Args:
        prompts: Rendered prompts.
        image_token_id: Placeholder of a image's tokens, `None` for a text-only model.

    Returns:
        Number of each prompt, and how many of its first tokens it shares with its group: 0 for a
        prompt that stands alone. Prompts of equal shared length are neighbours.
    """
    order = sorted(range(len(prompts)), key=lambda n: (prompts[n].images, prompts[n].input_ids))
    ordered = [prompts[number] for number in order]
    shares: list[int] = []
    for group in _groups(ordered):
        shares += [_shared_length(group, image_token_id)] * len(group)
    # A stable sort: groups stay together. The longest first, as what needs most memory.
    return sorted(zip(order, shares, strict=True), key=lambda pair: -pair[1])


def prefix_of(beginning: Rendered) -> Prefix:
    """What is equal where shared beginnings are."""
    return beginning.images, beginning.input_ids


def split(prompt: Rendered, n_shared: int) -> tuple[Rendered, Rendered]:
    """A prompt's shared beginning with its images, and the text that follows it."""
    return (
        replace(prompt, input_ids=prompt.input_ids[:n_shared]),
        replace(prompt, input_ids=prompt.input_ids[n_shared:], images=()),
    )


class PrefixStates:
    """Keys and values of the beginnings that the last batch needed.

    Args:
        cache: Knows beginnings of earlier calls, and is told of new ones.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._rows: dict[Prefix, int] = {}
        self._layers: list[tuple[Tensor, Tensor]] = []  # [prefixes, heads, shared, size]

    def clear(self) -> None:
        """Free the memory."""
        self._rows, self._layers = {}, []

    def for_rows(
        self, prefixes: Sequence[Prefix], run: Callable[[Sequence[int]], DynamicCache]
    ) -> DynamicCache:
        """Keys and values for a batch's rows, computed where the last batch did not need them.

        Args:
            prefixes: The beginning of every row; all of one length.
            run: Runs the model over the beginnings of the rows with these numbers.

        Returns:
            A cache of one row per prefix given, for the model to write to.
        """
        places: dict[Prefix, int] = {}
        for row, prefix in enumerate(prefixes):
            places.setdefault(prefix, row)
        kept = [prefix for prefix in places if prefix in self._rows]
        new = [prefix for prefix in places if prefix not in self._rows]
        known = {prefix: self._cache.get(*prefix) for prefix in new}
        cached = [layers for layers in known.values() if layers is not None]
        unread = [prefix for prefix in new if known[prefix] is None]
        parts = []
        if kept:
            parts.append(_select(self._layers, [self._rows[prefix] for prefix in kept]))
        if cached:
            parts.append(_stack(cached))
        if unread:
            computed = run([places[prefix] for prefix in unread])
            parts.append([(layer.keys, layer.values) for layer in computed.layers])
            for row, prefix in enumerate(unread):
                self._cache.put(*prefix, [(k[row], v[row]) for k, v in parts[-1]])
        self._layers = _join(parts)
        read_before = [prefix for prefix in new if known[prefix] is not None]
        self._rows = {prefix: row for row, prefix in enumerate(kept + read_before + unread)}
        rows = [self._rows[prefix] for prefix in prefixes]
        if rows == list(range(len(self._rows))):  # a cache grows by copying: these stay as they are
            return DynamicCache(self._layers)
        return DynamicCache(_select(self._layers, rows))


def _groups(ordered: Sequence[Rendered]) -> list[Sequence[Rendered]]:
    """Cut sorted prompts where neighbours share less than half of what they share elsewhere."""
    common = [_common_length(a, b) for a, b in itertools.pairwise(ordered)]
    padded = [0, *common, 0]
    borders = [
        place
        for place, length in enumerate(common, start=1)
        if length < _STEP or 2 * length < max(padded[place - 1], padded[place + 1])
    ]
    edges = [0, *borders, len(ordered)]
    return [ordered[start:stop] for start, stop in itertools.pairwise(edges)]


def _shared_length(group: Sequence[Rendered], image_token_id: int | None) -> int:
    if len(group) < 2:
        return 0
    first, last = group[0], group[-1]  # sorted: what these two share, all do
    # The last token stays outside, since the answer is read there.
    shortest = min(len(prompt.input_ids) for prompt in group)
    length = min(_common_length(first, last), shortest - 1)
    ids = first.input_ids
    after_images = len(ids) - ids[::-1].index(image_token_id) if image_token_id in ids else 0
    if length < after_images:
        return 0
    return max(length - length % _STEP, after_images)


def _common_length(one: Rendered, other: Rendered) -> int:
    return common_prefix_length(one.input_ids, other.input_ids) if one.images == other.images else 0


def _select(
    layers: Sequence[tuple[Tensor, Tensor]], rows: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    return [(keys[list(rows)], values[list(rows)]) for keys, values in layers]


def _stack(rows: Sequence[Layers]) -> list[tuple[Tensor, Tensor]]:
    """Layers of single rows as layers of a batch."""
    return [
        (torch.stack([keys for keys, _ in layer]), torch.stack([values for _, values in layer]))
        for layer in zip(*rows, strict=True)
    ]


def _join(parts: Sequence[list[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """Batches below one another."""
    if len(parts) == 1:
        return parts[0]
    return [
        (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
        for layer in zip(*parts, strict=True)
    ]
