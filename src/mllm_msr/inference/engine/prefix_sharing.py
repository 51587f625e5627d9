"""Prefix sharing: a prefix that several prompts have in common is computed once.

The recommender's prompt begins with the candidate's image and the instruction (figure 3 of the
paper), so the prompts of all users for one item share about half of their tokens. The engine groups
prompts by prefix, computes the states of each prefix once, and runs the suffix of every prompt on
top of them. The result is exact, not an approximation.

Prompts that begin with the user (`recommend.order=user-first`) share the text before their images,
which then belong to the suffixes: candidates of one user see the user, but not each other.
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
# Prompts that fill a batch alone: their length is not rounded.
_LARGE_GROUP: Final = 16


def group_by_prefix(
    prompts: Sequence[Rendered], *, image_token_id: int | None, images_may_follow: bool = False
) -> list[tuple[int, int]]:
    """Order prompts so that those with a common prefix are consecutive.

    A prefix contains all images of its prompts or none of them.

    Args:
        prompts: Rendered prompts.
        image_token_id: Placeholder id of image tokens; None for a text-only model.
        images_may_follow: Whether images may follow a prefix. Otherwise, a prefix without the
            images of its prompts is empty.

    Returns:
        Pairs of a prompt's index and the length of the prefix that it shares with its group in
        tokens, 0 for a prompt without a group. Prompts with equal lengths are consecutive.
    """
    if images_may_follow:
        texts = [_text_length(prompt, image_token_id) for prompt in prompts]
        shown = [text for prompt, text in zip(prompts, texts, strict=True) if prompt.images]
        if not shown or max(shown) >= _BLOCK_SIZE:
            return _group_by_text(prompts, texts, image_token_id)
    order = sorted(range(len(prompts)), key=lambda n: (prompts[n].images, prompts[n].input_ids))
    lengths: list[int] = []
    for group in _groups([prompts[index] for index in order]):
        lengths += [_shared_length(group, image_token_id)] * len(group)
    # The sort is stable, so groups stay together. Long prefixes come first: they need most memory.
    return sorted(zip(order, lengths, strict=True), key=lambda pair: -pair[1])


def prefix_key(prefix: Rendered) -> PrefixKey:
    """Return the key of a prefix."""
    return prefix.images, prefix.input_ids


def split_prefix(
    prompt: Rendered, n_shared: int, *, image_token_id: int | None
) -> tuple[Rendered, Rendered]:
    """Split a prompt into its prefix and what follows it; one of them has all the images."""
    in_prefix = image_token_id in prompt.input_ids[:n_shared]
    return (
        replace(
            prompt,
            input_ids=prompt.input_ids[:n_shared],
            images=prompt.images if in_prefix else (),
        ),
        replace(
            prompt,
            input_ids=prompt.input_ids[n_shared:],
            images=() if in_prefix else prompt.images,
        ),
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


def _group_by_text(
    prompts: Sequence[Rendered], texts: Sequence[int], image_token_id: int | None
) -> list[tuple[int, int]]:
    """Group prompts by the text before their images, so that the fewest tokens are computed.

    Args:
        prompts: Rendered prompts.
        texts: Number of tokens before the first image of each prompt.
        image_token_id: Placeholder id of image tokens.
    """

    def key(index: int) -> tuple[tuple[int, ...], tuple[Path, ...], tuple[int, ...]]:
        prompt = prompts[index]
        return prompt.input_ids[: texts[index]], prompt.images, prompt.input_ids

    order = sorted(range(len(prompts)), key=key)
    common = [_common_text(prompts, texts, *pair) for pair in itertools.pairwise(order)]
    pairs: list[tuple[int, int]] = []
    for start, stop in _split_where_cheaper(common):
        group = order[start:stop]
        length = 0
        if len(group) > 1:
            # The last token is excluded, since the answer is read there.
            shortest = min(len(prompts[index].input_ids) for index in group)
            length = min(*common[start : stop - 1], shortest - 1)
            if length > texts[group[0]] and any(
                image_token_id in prompts[index].input_ids[length:] for index in group
            ):  # a prefix ends before the images of its prompts or after them
                length = min(texts[index] for index in group)
        if len(group) < _LARGE_GROUP and length <= texts[group[0]]:
            length -= length % _BLOCK_SIZE
        pairs += [(index, length if length >= _BLOCK_SIZE else 0) for index in group]
    return sorted(pairs, key=lambda pair: -pair[1])


def _common_text(prompts: Sequence[Rendered], texts: Sequence[int], first: int, second: int) -> int:
    """Return the length of the common prefix of two prompts; different images are not common."""
    one, other = prompts[first], prompts[second]
    length = common_prefix_length(one.input_ids, other.input_ids)
    return length if one.images == other.images else min(length, texts[first], texts[second])


def _split_where_cheaper(common: Sequence[int]) -> list[tuple[int, int]]:
    """Split sorted prompts into groups that share a prefix.

    A group is split where its prompts share the least, if its parts save more tokens than it does.

    Args:
        common: Length of the common prefix of each two neighbors: [prompts - 1].

    Returns:
        First index of each group, and the index after its last one.
    """
    # Ranges of prompts that share more than their neighbors, from the outermost to the innermost:
    # shared length, first prompt, and for each part the tokens that it saves and its groups.
    open_ranges: list[tuple[int, int, list[tuple[int, list[tuple[int, int]]]]]] = []
    for index, length in enumerate([*common, -1]):
        start, part = index, (0, [(index, index + 1)])
        while open_ranges and open_ranges[-1][0] > length:
            shared, start, parts = open_ranges.pop()
            parts.append(part)
            together, apart = (index - start) * shared, sum(saved for saved, _ in parts)
            part = (together, [(start, index + 1)])
            if apart > together:
                part = (apart, [group for _, groups in parts for group in groups])
        if open_ranges and open_ranges[-1][0] == length:
            open_ranges[-1][2].append(part)
        else:
            open_ranges.append((length, start, [part]))
    return open_ranges[0][2][0][1]


def _text_length(prompt: Rendered, image_token_id: int | None) -> int:
    """Return the number of tokens before the first image of a prompt."""
    ids = prompt.input_ids
    return ids.index(image_token_id) if image_token_id in ids else len(ids)


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
