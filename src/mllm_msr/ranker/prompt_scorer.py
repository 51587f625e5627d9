"""Scoring of candidate rows with a language model: P(yes) of one prompt per row.

Every recommender that prompts a language model scores through this module: MLLM-MSR and zero-shot
(`ranker/recommender.py`), and the baselines LLaVA zero-shot and TALLRec (`baselines/`). They
differ in the prompt that they build for a row.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, final, runtime_checkable

import polars as pl

from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.data.image_store import drop_unreadable_images
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.scoring import score_examples

logger = logging.getLogger(__name__)

ScoringProgress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def no_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing: the default `ScoringProgress`."""
    del total
    yield lambda _: None


@runtime_checkable
class ShowsScoring(Protocol):
    """A recommender whose `score` can show its progress; optional for baselines with prompts."""

    def show_scoring(self, progress: ScoringProgress) -> None:
        """Show the progress of each following call of `score`."""


@final
class PromptScorer:
    """Scorer of candidates with a backend that is opened on first use.

    Args:
        open_backend: Opens the backend; `close` closes it.
        order: What the prompts begin with, see `score_examples`.
        max_error_rate: Fraction of prompts in [0, 1] that may fail; these have no score.
        progress: Shows progress; called with the number of prompts of each call of `score`.

    Attributes:
        progress: As given; may be replaced.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        *,
        order: PromptOrder = "item-first",
        max_error_rate: float,
        progress: ScoringProgress = no_progress,
    ) -> None:
        self._open_backend = open_backend
        self._order: PromptOrder = order
        self._max_error_rate = max_error_rate
        self.progress = progress
        self._backend: Backend | None = None
        self._usage = {"failed": 0, "upper_bound": 0, "without_image": 0}
        self._unreadable: set[str] = set()

    def readable_items(self, items: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
        """Return items without the images of candidates that cannot be opened.

        Candidates without an image are scored from their title, others from the images that they
        keep; `usage` counts both as `without_image`.

        Args:
            items: `tables.ITEMS` with absolute image paths.
            candidates: Column `item_id`.
        """
        readable, problems = drop_unreadable_images(items, candidates["item_id"])
        new = [item_id for item_id in problems if item_id not in self._unreadable]
        if new:
            logger.warning(
                "%d items are scored without images that cannot be opened. The first is %s: %s",
                len(new),
                new[0],
                problems[new[0]],
            )
            self._unreadable.update(new)
        if problems:
            without_image = candidates["item_id"].is_in(list(problems)).sum()
            self._add({"without_image": int(without_image)})
        return readable

    def score(
        self, candidates: pl.DataFrame, examples: Callable[[pl.DataFrame], Iterable[Example]]
    ) -> pl.DataFrame:
        """Score candidates, see `Recommender.score`.

        Args:
            candidates: Columns `user_id`, `position`, `item_id`; others are passed through.
            examples: Builds the prompts of rows in the form of `tables.CANDIDATES`; it may leave
                out rows whose item is unknown.

        Returns:
            `candidates` with `score` = P(yes) in [0, 1]; null if there is no prompt or it failed.

        Raises:
            BackendError: The backend fails, or more prompts failed than `max_error_rate` allows.
        """
        # A candidate row need not have a fold or a label; the row number identifies it here.
        rows = candidates.select(
            fold=pl.int_range(pl.len(), dtype=pl.Int32),
            split=pl.lit("test"),
            negatives=pl.lit(""),
            user_id="user_id",
            position="position",
            item_id="item_id",
            label=pl.lit(0, dtype=pl.Int8),
        )
        if self._backend is None:
            self._backend = self._open_backend()
        with self.progress(rows.height) as advance:
            scored, counts = score_examples(
                examples(rows),
                self._backend,
                order=self._order,
                max_error_rate=self._max_error_rate,
                progress=advance,
            )
        self._add({"failed": counts.failed, "upper_bound": counts.upper_bound})
        scores = rows.select("fold").join(
            scored.select("fold", "score"), on="fold", how="left", maintain_order="left"
        )
        return candidates.with_columns(scores["score"])

    def usage(self) -> dict[str, int]:
        """Return counts of failed prompts, unreadable images, upper bounds and cached calls."""
        total = dict(self._usage)
        if isinstance(self._backend, CachedBackend):
            for name, value in self._backend.usage().items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        """Close the backend; the next call of `score` opens it again."""
        if self._backend is not None:
            if isinstance(self._backend, CachedBackend):
                self._add(self._backend.usage())
            self._backend.close()
            self._backend = None

    def _add(self, usage: Mapping[str, int]) -> None:
        for name, value in usage.items():
            self._usage[name] = self._usage.get(name, 0) + value
