"""Scheduling of requests: their order within a window, and which ones fit into a batch.

This part of the engine needs no model. Requests are sorted by length, to reduce padding, or grouped
by common prefix, so that the prefix is computed once. Batches are limited in rows and tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mllm_msr.inference.engine.prefix_sharing import group_by_prefix
from mllm_msr.models.inputs import Rendered

# New requests are admitted when at least 1/4 of the rows is free, as prefill is cheaper in batches.
_ADMISSION_DIVISOR: Final = 4


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that waits for its result.

    Attributes:
        index: Index of the prompt among all prompts.
        rendered: The rendered prompt.
        max_new_tokens: Maximum number of tokens to generate; 0 to score.
        n_shared: Length of the prefix whose keys and values are shared or cached, in tokens.
    """

    index: int
    rendered: Rendered
    max_new_tokens: int
    n_shared: int = 0

    @property
    def max_tokens(self) -> int:
        """Return the maximum length of the sequence in tokens."""
        return len(self.rendered.input_ids) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Size limits of a batch.

    Attributes:
        rows: Maximum number of requests, at least 1.
        tokens: Maximum number of tokens, including padding and new tokens. A longer request runs
            alone.
    """

    rows: int
    tokens: int

    def allow(self, n_rows: int, longest: int) -> bool:
        """Return whether `n_rows` requests of at most `longest` tokens fit into a batch."""
        return n_rows == 1 or (n_rows <= self.rows and n_rows * longest <= self.tokens)


def sort_longest_first(requests: Sequence[Request]) -> list[Request]:
    """Sort requests by length, so that a batch that exceeds the memory fails early."""
    return sorted(requests, key=lambda r: (r.max_new_tokens, r.max_tokens), reverse=True)


def sort_by_prefix(
    requests: Sequence[Request], *, image_token_id: int | None, images_may_follow: bool = False
) -> list[Request]:
    """Order requests with a common prefix consecutively, those without one last."""
    order = group_by_prefix(
        [r.rendered for r in requests],
        image_token_id=image_token_id,
        images_may_follow=images_may_follow,
    )
    return [replace(requests[index], n_shared=n_shared) for index, n_shared in order]


def sort_longest_prefix_first(requests: Sequence[Request]) -> list[Request]:
    """Sort requests by the length of their prefix, then by their own length."""
    return sorted(requests, key=lambda r: (r.n_shared, r.max_tokens), reverse=True)


def use_cached_prefixes(
    requests: Sequence[Request], n_cached: Callable[[Rendered], int]
) -> list[Request]:
    """Set the cached prefix of requests that share no prefix with their neighbors.

    Args:
        requests: Requests, those with a common prefix consecutively.
        n_cached: Returns how many leading tokens of a prompt are cached.

    Returns:
        The requests with a shared prefix in their order, then the others by length.
    """
    grouped = [r for r in requests if r.n_shared]
    single = [replace(r, n_shared=n_cached(r.rendered)) for r in requests if not r.n_shared]
    return [*grouped, *sort_longest_prefix_first(single)]


def next_batch(waiting: deque[Request], limits: BatchLimits) -> list[Request]:
    """Remove and return the next batch, as many requests as the limits allow.

    All requests of a batch have the same `max_new_tokens` and `n_shared`.

    Args:
        waiting: At least one request.
        limits: Size limits of the batch.
    """
    batch = [waiting.popleft()]
    first, longest = batch[0], batch[0].max_tokens
    while waiting:
        request = waiting[0]
        longest = max(longest, request.max_tokens)
        same_kind = request.max_new_tokens == first.max_new_tokens
        same_kind = same_kind and request.n_shared == first.n_shared
        if not same_kind or not limits.allow(len(batch) + 1, longest):
            break
        batch.append(waiting.popleft())
    return batch


def admit(
    waiting: deque[Request], running: Sequence[Request], limits: BatchLimits
) -> list[Request]:
    """Remove and return the requests to prefill while others are running.

    Args:
        waiting: Requests that have not started.
        running: Requests that are being decoded.
        limits: Size limits of both together.

    Returns:
        Requests with one prefix length. Empty unless enough rows are free for a batched prefill.
    """
    admitted: list[Request] = []
    if len(running) + max(limits.rows // _ADMISSION_DIVISOR, 1) > limits.rows:
        return admitted
    longest = max((request.max_tokens for request in running), default=0)
    while waiting and len(running) + len(admitted) < limits.rows:
        if admitted and waiting[0].n_shared != admitted[0].n_shared:
            break
        longest = max(longest, waiting[0].max_tokens)
        if not limits.allow(len(running) + len(admitted) + 1, longest):
            break
        admitted.append(waiting.popleft())
    return admitted
