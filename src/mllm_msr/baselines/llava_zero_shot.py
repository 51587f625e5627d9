"""LLaVA without fine-tuning: the history's titles, the candidate's title and image, yes or no?

The row "LLaVA" of the paper's Table 3. It shows what a multimodal model knows before any of the
method: expect about chance, since such models say yes to most things. The recommender's own
prompt before tuning, with the written preference, is the model `zero_shot` of a run. Nothing is
learnt; items that the catalog lacks get 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import polars as pl

from mllm_msr.baselines._llm.dialogues import score_dialogues
from mllm_msr.baselines._llm.item_table import load_items, save_items
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Recommender, TrainingData

_NAME: Final = "llava_zero_shot"


@final
class LlavaZeroShot(Recommender):
    """A multimodal model as it comes.

    Args:
        backend: A name of `mllm-msr list backends`.
        options: Its constructor arguments, such as `checkpoint`.
        item_type: What an item is called in the prompt.
        n_last: Titles of a history that are shown, the latest; at least 1.
        use_images: Whether the candidate's image is shown.
        max_error_rate: Share of prompts that may fail, in [0, 1]; they get 0.5.
        seed: Accepted like everywhere; chance plays no part here.

    Raises:
        SettingsError: `n_last` is below 1.
    """

    requires_llm: ClassVar[bool] = True

    def __init__(
        self,
        *,
        backend: str = "demo",
        options: Mapping[str, Any] | None = None,
        item_type: str = "item",
        n_last: int = 10,
        use_images: bool = True,
        max_error_rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        if n_last < 1:
            raise SettingsError([f"n_last must be at least 1, it is {n_last}"])
        self._settings: dict[str, Any] = {
            "backend": backend,
            "options": dict(options or {}),
            "item_type": item_type,
            "n_last": n_last,
            "use_images": use_images,
            "max_error_rate": max_error_rate,
            "seed": seed,
        }
        self._items: pl.DataFrame | None = None

    def fit(self, data: TrainingData) -> Self:
        """Keep the catalog's titles and images."""
        self._items = data.items
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Each candidate's P(yes), in [0, 1].

        Raises:
            BackendError: The model cannot go on, or too many prompts failed.
        """
        arguments = {name: value for name, value in self._settings.items() if name != "seed"}
        return score_dialogues(candidates, interactions, self._fitted(), **arguments)

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
