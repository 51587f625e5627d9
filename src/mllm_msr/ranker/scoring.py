"""Scoring of examples with a backend: P = p(yes) / (p(yes) + p(no)), equation (1) of the paper.

It takes one forward pass per example. The backend renders the prompts, so it also finds the token
ids of the answers.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import CHOICES, Example
from mllm_msr.tables import SCORES
from mllm_msr.types import ChoiceScores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """Counts of one call of `score_examples`.

    Attributes:
        examples: Examples scored, including failed ones.
        failed: Examples whose prompt failed; they have no score.
        prompt_tokens: Prompt tokens, including image tokens.
        upper_bound: Examples whose score is inexact, because the endpoint lists only the most
            probable tokens and an answer was not among them.
    """

    examples: int
    failed: int
    prompt_tokens: int
    upper_bound: int = 0


def score_examples(
    examples: Iterable[Example],
    backend: Backend,
    *,
    order: PromptOrder = "item-first",
    max_error_rate: float = 0.0,
    window: int = 50_000,
    progress: Callable[[int], None] | None = None,
) -> tuple[pl.DataFrame, ScoreCounts]:
    """Return the probability that each candidate is the next item.

    Within a window, the backend gets the examples sorted by what their prompts begin with, the item
    or the user, so that it can share the work on it.

    Args:
        examples: Any number of examples; at most `window` of them are in memory at a time.
        backend: Backend that scores choices, with or without fine-tuned weights.
        order: What the prompts begin with.
        max_error_rate: Fraction of examples in [0, 1] that may fail; these have no score.
        window: Examples that are sorted together.
        progress: Called with the number of examples finished since the last call.

    Returns:
        `tables.SCORES` with one row per example in the order given, `score` in [0, 1] or null if
        the prompt failed; and the counts.

    Raises:
        CapabilityError: The backend cannot score choices.
        BackendError: More examples failed than `max_error_rate` allows, or the backend did not
            return a result for every prompt.
    """
    if not backend.capabilities.choices:
        raise CapabilityError(
            f"The backend {backend.fingerprint} only generates text and cannot score answers. "
            "Choose another backend for the ranker."
        )
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    tokens = upper_bound = 0
    stream = iter(examples)
    while chunk := list(itertools.islice(stream, window)):
        found = _choice_scores(chunk, backend, order=order, progress=progress)
        for example, scores in zip(chunk, found, strict=True):
            score, error = yes_probability(scores)
            tokens += scores.prompt_tokens
            upper_bound += scores.upper_bound
            if error is not None:
                failures.append(error)
            keys = (example.fold, example.negatives, example.user_id, example.item_id)
            rows.append((*keys, example.label, score))
    if failures:
        _check_failures(failures, n_examples=len(rows), max_error_rate=max_error_rate)
    frame = pl.DataFrame(rows, schema=dict(SCORES), orient="row")
    counts = ScoreCounts(
        examples=len(rows), failed=len(failures), prompt_tokens=tokens, upper_bound=upper_bound
    )
    return frame, counts


def _choice_scores(
    chunk: Sequence[Example],
    backend: Backend,
    *,
    order: PromptOrder,
    progress: Callable[[int], None] | None,
) -> list[ChoiceScores]:
    """Return the backend's result for each example, in the order of the examples."""

    def beginning(index: int) -> tuple[str | int, ...]:
        example = chunk[index]
        if order == "item-first":
            return example.item_id, index
        return example.user_id, example.position, index

    indices = sorted(range(len(chunk)), key=beginning)
    found: dict[int, ChoiceScores] = {}
    for index, scores in backend.score((chunk[index].prompt for index in indices), CHOICES):
        found[indices[index]] = scores
        if progress is not None:
            progress(1)
    if len(found) != len(chunk):
        raise BackendError(
            f"The backend {backend.fingerprint} returned {len(found)} results for {len(chunk)} "
            "prompts. This is a bug of the backend; please report it."
        )
    return [found[index] for index in range(len(chunk))]


def yes_probability(scores: ChoiceScores) -> tuple[float | None, str | None]:
    """Compute equation (1) of the paper from the log-probabilities of both answers.

    Args:
        scores: Log-probabilities of the positive and the negative answer.

    Returns:
        P(yes) in [0, 1] and `None`; if there is no result, `None` and the reason.
    """
    if scores.error is not None:
        return None, scores.error
    positive, negative = scores.log_probs
    difference = positive - negative
    if math.isnan(difference):
        return None, f"the log-probabilities {positive} and {negative} have no ratio"
    # The exponent is never positive, so it cannot overflow.
    decay = math.exp(-abs(difference))
    return (1.0 if difference >= 0 else decay) / (1.0 + decay), None


def _check_failures(failures: Sequence[str], *, n_examples: int, max_error_rate: float) -> None:
    """Raise an error if too many examples failed, else log a warning."""
    if len(failures) / n_examples > max_error_rate:
        raise BackendError(
            f"{len(failures)} of {n_examples} examples failed, more than the {max_error_rate:.1%} "
            f"that score.max_error_rate allows. The first failure: {failures[0]}"
        )
    logger.warning(
        "%d of %d examples have no score. The first failure: %s",
        len(failures),
        n_examples,
        failures[0],
    )
