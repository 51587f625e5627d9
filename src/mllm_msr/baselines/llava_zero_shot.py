"""LLaVA zero-shot: yes or no from the titles of the history and the candidate's title and image.

The row "LLaVA" of the paper's Table 3. It measures a multimodal model without the method; expect
results near chance, because such models answer yes to most questions. MLLM-MSR's own prompt before
fine-tuning, with the written preference, is the model `zero_shot` of a run. Nothing is learned;
items that are not in the catalog have no score.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import polars as pl

from mllm_msr import registry
from mllm_msr.baselines._llm.prompted import PromptedRecommender
from mllm_msr.baselines._llm.title_prompts import title_examples
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.ranker.prompt_scorer import PromptScorer
from mllm_msr.ranker.saved_recommender import load_items, save_items
from mllm_msr.types import Seed, Share

logger = logging.getLogger(__name__)

_NAME: Final = "llava_zero_shot"
_PROMPT: Final = ("item_type", "n_last", "use_images")


@final
class LlavaZeroShot(PromptedRecommender):
    """Recommender that prompts a multimodal model without fine-tuning.

    Args:
        backend: Name of the backend.
        options: Constructor arguments of the backend, such as `checkpoint`.
        item_type: Word for an item in the prompts, such as "movie".
        n_last: Number of latest titles of a history that are shown, at least 1.
        use_images: Whether the candidate's image is shown.
        max_error_rate: Fraction of prompts in [0, 1] that may fail; these have no score.
        seed: Accepted for uniformity; the model is deterministic.

    Raises:
        SettingsError: `n_last` is below 1.
    """

    label: ClassVar[str] = "LLaVA zero-shot"

    def __init__(
        self,
        *,
        backend: str = "demo",
        options: Mapping[str, Any] | None = None,
        item_type: str = "item",
        n_last: int = 10,
        use_images: bool = True,
        max_error_rate: Share = 0.01,
        seed: Seed = 0,
    ) -> None:
        if n_last < 1:
            raise SettingsError([f"n_last must be at least 1, but is {n_last}."])
        options = dict(options or {})
        self._settings: dict[str, Any] = {
            "backend": backend,
            "options": options,
            "item_type": item_type,
            "n_last": n_last,
            "use_images": use_images,
            "max_error_rate": max_error_rate,
            "seed": seed,
        }
        kind = registry.find_backend(backend)
        self._scorer = PromptScorer(
            lambda: kind(**options),
            max_error_rate=max_error_rate,
        )
        self._items: pl.DataFrame | None = None

    def fit(self, data: TrainingData) -> Self:
        """Store the titles and images of the catalog."""
        self._items = data.items
        if self._settings["use_images"] and not data.items["image"].count():
            logger.warning(
                "%s reads titles only, because no item has an image that it may read. To leave "
                "images out, set baselines.%s.use_images=false.",
                self.label,
                _NAME,
            )
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Return P(yes) of every candidate, in [0, 1]; null if its prompt fails.

        Raises:
            BackendError: The model fails, or too many prompts failed.
        """
        items = self._fitted()
        if self._settings["use_images"]:
            items = self._scorer.readable_items(items, candidates)
        prompt = {name: self._settings[name] for name in _PROMPT}
        return self._scorer.score(
            candidates, lambda rows: title_examples(rows, interactions, items, **prompt)
        )

    def save(self, folder: Path) -> None:
        """Write settings and items; images stay where they are."""
        save_items(folder, self._settings, self._fitted())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        settings, items = load_items(folder)
        try:
            loaded = cls(**settings)
        except (TypeError, SettingsError) as cause:
            raise damaged(folder, str(cause)) from cause
        loaded._items = items
        return loaded

    def _fitted(self) -> pl.DataFrame:
        if self._items is None:
            raise unfitted(_NAME)
        return self._items
