"""Prefix sharing: a prefix that several prompts have in common is computed once.

The recommender's prompt begins with the candidate's image and the instruction (figure 3 of the
paper), so the prompts of all users for one item share about half of their tokens. The engine groups
prompts by prefix, computes the states of each prefix once, and runs the suffix of every prompt on
top of them. The result is exact, not an approximation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mllm_msr.inference.engine.prefix_cache import PrefixCache
from mllm_msr.models.inputs import Rendered
from mllm_msr.models.prefix_support import common_prefix_length
from mllm_msr.models.states import States

# Images and token ids of a prefix. Prefixes with equal keys are identical.
PrefixKey = tuple[tuple[Path, ...], tuple[int, ...]]

# Lengths of shared text are rounded down to multiples of this, so that several groups fit into one
# batch. A shorter prefix is not worth a forward pass of its own.
_BLOCK_SIZE: Final = 16


def group_by_prefix(
    prompts: Sequence[Rendered], *, image_token_id: int | None
) -> list[tuple[int, int]]:
    """Order prompts so that those with a common prefix are consecutive.

    A prefix is empty or contains all images of its prompts, so that only text follows it.

    Args:
        prompts: Rendered prompts.
        image_token_id: Placeholder id of image tokens; None for a text-only model.

    Returns:
        Pairs of a prompt's index and the length of the prefix that it shares with its group in
        tokens, 0 for a prompt without a group. Prompts with equal lengths are consecutive.
    """
    order = sorted(range(len(prompts)), key=lambda n: (prompts[n].images, prompts[n].input_ids))
    lengths: list[int] = []
    for group in _groups([prompts[index] for index in order]):
        lengths += [_shared_length(group, image_token_id)] * len(group)
    # The sort is stable, so groups stay together. Long prefixes come first: they need most memory.
    return sorted(zip(order, lengths, strict=True), key=lambda pair: -pair[1])


def prefix_key(prefix: Rendered) -> PrefixKey:
    """Return the key of a prefix."""
    return prefix.images, prefix.input_ids


def split_prefix(prompt: Rendered, n_shared: int) -> tuple[Rendered, Rendered]:
    """Split a prompt into its prefix with all images, and the text that follows it."""
    return (
        replace(prompt, input_ids=prompt.input_ids[:n_shared]),
        replace(prompt, input_ids=prompt.input_ids[n_shared:], images=()),
    )


class PrefixStates:
    """States of the prefixes of the previous batch.

    Args:
        cache: Cache across calls. New prefixes are added to it.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._rows: dict[PrefixKey, int] = {}
        self._states: States | None = None  # one row for each prefix

    def clear(self) -> None:
        """Free the memory."""
        self._rows, self._states = {}, None

    def for_rows(
        self, prefixes: Sequence[PrefixKey], prefill: Callable[[Sequence[int]], States]
    ) -> States:
        """Return the states of a batch's prefixes, computing those that are missing.

        Args:
            prefixes: The prefix of each row, all of the same length.
            prefill: Runs the model on the prefixes of the rows with these indices.

        Returns:
            One row for each prefix given. The tensors may belong to this object.
        """
        first_rows: dict[PrefixKey, int] = {}
        for row, prefix in enumerate(prefixes):
            first_rows.setdefault(prefix, row)
        reused = [prefix for prefix in first_rows if prefix in self._rows]
        others = {p: self._cache.get(*p) for p in first_rows if p not in self._rows}
        cached = {prefix: states for prefix, states in others.items() if states is not None}
        missing = [prefix for prefix in others if prefix not in cached]
        parts = []
        if self._states is not None and reused:
            parts.append(self._states.select([self._rows[prefix] for prefix in reused]))
        parts += cached.values()
        if missing:
            computed = prefill([first_rows[prefix] for prefix in missing])
            parts.append(computed)
            for row, prefix in enumerate(missing):
                self._cache.put(*prefix, computed.row(row))
        self._states = States.concatenate(parts)
        self._rows = {prefix: row for row, prefix in enumerate([*reused, *cached, *missing])}
        rows = [self._rows[prefix] for prefix in prefixes]
        if rows == list(range(len(self._rows))):
            return self._states
        return self._states.select(rows)


def _groups(ordered: Sequence[Rendered]) -> list[Sequence[Rendered]]:
    """Split sorted prompts where neighbors share less than half of what an adjacent pair shares."""
    common = [_common_length(a, b) for a, b in itertools.pairwise(ordered)]
    padded = [0, *common, 0]
    borders = [
        index
        for index, length in enumerate(common, start=1)
        if length < _BLOCK_SIZE or 2 * length < max(padded[index - 1], padded[index + 1])
    ]
    edges = [0, *borders, len(ordered)]
    return [ordered[start:stop] for start, stop in itertools.pairwise(edges)]


def _shared_length(group: Sequence[Rendered], image_token_id: int | None) -> int:
    if len(group) < 2:
        return 0
    first, last = group[0], group[-1]  # sorted: what these two share, all prompts share
    # The last token is excluded, since the answer is read there.
    shortest = min(len(prompt.input_ids) for prompt in group)
    length = min(_common_length(first, last), shortest - 1)
    ids = first.input_ids
    after_images = len(ids) - ids[::-1].index(image_token_id) if image_token_id in ids else 0
    if length < after_images:
        return 0
    return max(length - length % _BLOCK_SIZE, after_images)


def _common_length(first: Rendered, second: Rendered) -> int:
    if first.images != second.images:
        return 0
    return common_prefix_length(first.input_ids, second.input_ids)
