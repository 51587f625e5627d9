"""Which prompts are worked on together: the order of a window, and what fits into a batch.

The engine's part that needs no model. Prompts are sorted by length, so that little is padding, or
stand beside those that begin alike, so that the beginning is read once; batches and answers that
are written side by side are bounded in rows and in tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mllm_msr.inference.engine.prefix_sharing import arrange
from mllm_msr.models.inputs import Rendered

# New answers begin when one in so many places is free: prompts are cheaper to read together.
_FREE_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt that waits for its result.

    Attributes:
        index: Its place among all prompts.
        rendered: The prompt.
        max_new_tokens: Tokens that may be written, 0 to score.
        n_shared: First tokens that its neighbours have too.
    """

    index: int
    rendered: Rendered
    max_new_tokens: int
    n_shared: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens that it may come to."""
        return len(self.rendered.input_ids) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Room:
    """What may be worked on at once.

    Attributes:
        rows: Most jobs, at least 1.
        tokens: Most tokens, padding and new tokens included; a longer job runs alone.
    """

    rows: int
    tokens: int

    def holds(self, n_rows: int, longest: int) -> bool:
        """Whether so many jobs fit, the longest of so many tokens."""
        return n_rows == 1 or (n_rows <= self.rows and n_rows * longest <= self.tokens)


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs by length, so that what does not fit into memory shows at once."""
    return sorted(jobs, key=lambda job: (job.max_new_tokens, job.n_tokens), reverse=True)


def side_by_side(jobs: Sequence[Job], *, image_token_id: int | None) -> list[Job]:
    """Jobs that begin alike after one another, those that stand alone last."""
    places = arrange([job.rendered for job in jobs], image_token_id=image_token_id)
    return [replace(jobs[place], n_shared=n_shared) for place, n_shared in places]


def most_shared_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs by what they share with others, then by length."""
    return sorted(jobs, key=lambda job: (job.n_shared, job.n_tokens), reverse=True)


def with_known(jobs: Sequence[Job], n_known: Callable[[Rendered], int]) -> list[Job]:
    """Prompts that share nothing with their neighbours may have been read in part before.

    Args:
        jobs: Jobs, those that share side by side.
        n_known: First tokens of a prompt that the model has read already.

    Returns:
        The jobs that share as they stand, then the others, which need not stand beside what they
        share, sorted by length.
    """
    grouped = [job for job in jobs if job.n_shared]
    lone = [replace(job, n_shared=n_known(job.rendered)) for job in jobs if not job.n_shared]
    return [*grouped, *most_shared_first(lone)]


def next_batch(jobs: deque[Job], room: Room) -> list[Job]:
    """Take jobs of one kind from the front, as many as there is room for.

    Args:
        jobs: At least one; what is returned is taken out.
        room: Bounds of the batch.
    """
    batch = [jobs.popleft()]
    first, longest = batch[0], batch[0].n_tokens
    while jobs:
        job = jobs[0]
        longest = max(longest, job.n_tokens)
        alike = (job.max_new_tokens, job.n_shared) == (first.max_new_tokens, first.n_shared)
        if not alike or not room.holds(len(batch) + 1, longest):
            break
        batch.append(jobs.popleft())
    return batch


def next_answers(jobs: deque[Job], writing: Sequence[Job], room: Room) -> list[Job]:
    """Take the jobs that begin beside those that are being written.

    Args:
        jobs: Jobs that wait; what is returned is taken out.
        writing: Jobs whose answers are being written.
        room: Bounds of both together.

    Returns:
        None unless enough places are free to make it worth it.
    """
    begun: list[Job] = []
    if len(writing) + max(room.rows // _FREE_PART, 1) > room.rows:
        return begun
    longest = max((job.n_tokens for job in writing), default=0)
    while jobs and len(writing) + len(begun) < room.rows:
        if begun and jobs[0].n_shared != begun[0].n_shared:
            break
        longest = max(longest, jobs[0].n_tokens)
        if not room.holds(len(writing) + len(begun) + 1, longest):
            break
        begun.append(jobs.popleft())
    return begun
