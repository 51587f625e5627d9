"""Base class of the baselines that prompt a language model."""

from __future__ import annotations

import polars as pl

from mllm_msr.interfaces import Recommender
from mllm_msr.ranker.prompt_scorer import PromptScorer, ScoringProgress


class PromptedRecommender(Recommender):
    """Recommender whose scores are answers of a language model.

    Subclasses set `_scorer` when they are constructed.
    """

    requires_llm = True
    _scorer: PromptScorer

    def complete_histories(self, targets: pl.DataFrame) -> pl.DataFrame:
        """Return all targets: the titles before each of them are known."""
        return targets

    def show_scoring(self, progress: ScoringProgress) -> None:
        """Show the prompts that `score` has answered."""
        self._scorer.progress = progress

    def usage(self) -> dict[str, int]:
        """Return the counts of failed prompts and upper-bound scores."""
        return self._scorer.usage()

    def close(self) -> None:
        """Close the backend; `score` opens it again."""
        self._scorer.close()
