"""Score examples with a backend: P = p(yes) / (p(yes) + p(no)), equation (1) of the paper.

Stage `score`: takes examples, yields `tables.SCORES`. One forward pass per example; the ids of the
answers are the backend's business, since it renders the prompts.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import NEGATIVE_ANSWER, POSITIVE_ANSWER, Example
from mllm_msr.tables import SCORES
from mllm_msr.types import ChoiceScores

NEUTRAL_SCORE: Final = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """What scoring cost, and what failed.

    Attributes:
        examples: Examples scored, failed ones included.
        failed: Examples that got `NEUTRAL_SCORE` because their prompt failed.
        prompt_tokens: Tokens read, image tokens included.
        upper_bound: Examples whose score is only bounded, since one answer was not among the tokens
            that the endpoint lists.
    """

    examples: int
    failed: int
    prompt_tokens: int
    upper_bound: int = 0


def score_examples(
    examples: Iterable[Example],
    backend: Backend,
    *,
    choices: tuple[str, str] = (POSITIVE_ANSWER, NEGATIVE_ANSWER),
    max_error_rate: float = 0.0,
    window: int = 50_000,
    progress: Callable[[int], None] | None = None,
) -> tuple[pl.DataFrame, ScoreCounts]:
    """Probabilities that the examples' candidates come next.

    Within a window the backend sees the examples ordered by image and title, so that it can
    share what candidates have in common: the prompt begins with the image.

    Args:
        examples: Any number of examples; at most `window` of them are held at a time.
        backend: The fine-tuned model, or any other that scores choices.
        choices: The answers for and against, each one token.
        max_error_rate: Share of failed examples, in [0, 1], up to which they get
            `NEUTRAL_SCORE`; above it scoring fails.
        window: Examples that are ordered together.
        progress: Called with the number of examples finished since the last call.

    Returns:
        `tables.SCORES` with one row per example, in the order given, `score` in [0, 1]; and the
        counts.

    Raises:
        CapabilityError: The backend cannot score choices.
        BackendError: More examples failed than `max_error_rate` allows.
    """
    if not backend.capabilities.choices:
        raise CapabilityError(
            needed="a backend that scores given answers",
            received=f"{backend.fingerprint}, which only writes text",
            remedy="choose another backend for the recommender",
        )
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    tokens = upper_bound = 0
    for chunk in _chunks(examples, window):
        for example, answer in zip(
            chunk, _answers(chunk, backend, choices, progress=progress), strict=True
        ):
            score, error = probability(answer)
            tokens += answer.prompt_tokens
            upper_bound += answer.upper_bound
            if error is not None:
                failures.append(error)
            keys = (example.fold, example.negatives, example.user_id, example.item_id)
            rows.append((*keys, example.label, score))
    if failures:
        _judge(failures, n_examples=len(rows), max_error_rate=max_error_rate)
    frame = pl.DataFrame(rows, schema=dict(SCORES), orient="row")
    counts = ScoreCounts(
        examples=len(rows), failed=len(failures), prompt_tokens=tokens, upper_bound=upper_bound
    )
    return frame, counts


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    stream = iter(examples)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def _answers(
    chunk: Sequence[Example],
    backend: Backend,
    choices: tuple[str, str],
    *,
    progress: Callable[[int], None] | None,
) -> list[ChoiceScores]:
    order = sorted(range(len(chunk)), key=lambda index: (chunk[index].item_id, index))
    answers: dict[int, ChoiceScores] = {}
    for place, answer in backend.score((chunk[index].prompt for index in order), choices):
        answers[order[place]] = answer
        if progress is not None:
            progress(1)
    if len(answers) != len(chunk):
        raise BackendError(
            needed=f"an answer to each of {len(chunk)} prompts",
            received=f"{len(answers)} from {backend.fingerprint}",
            remedy="report this backend as broken",
        )
    return [answers[index] for index in range(len(chunk))]


def probability(answer: ChoiceScores) -> tuple[float, str | None]:
    """Equation (1) of the paper from the log-probabilities of the answers for and against.

    Returns:
        P(yes) in [0, 1] and `None`; or, where there is none, the neutral score and the reason.
    """
    if answer.error is not None:
        return NEUTRAL_SCORE, answer.error
    positive, negative = answer.log_probs
    difference = positive - negative
    if math.isnan(difference):
        return NEUTRAL_SCORE, f"log-probabilities {positive} and {negative} have no ratio"
    # exp of a non-positive number only: no overflow at either end.
    decay = math.exp(-abs(difference))
    return (1.0 if difference >= 0 else decay) / (1.0 + decay), None


def _judge(failures: Sequence[str], *, n_examples: int, max_error_rate: float) -> None:
    share = len(failures) / n_examples
    if share > max_error_rate:
        raise BackendError(
            needed=f"at most {max_error_rate:.1%} of {n_examples} examples to fail",
            received=f"{len(failures)} failures, the first: {failures[0]}",
            remedy="mend the cause, or raise the error rate that scoring allows",
        )
    logger.warning("%d examples failed and got the neutral score", len(failures))
