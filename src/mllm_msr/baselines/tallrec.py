"""TALLRec: a language model fine-tuned on titles alone (Bao et al. 2023).

The prompt asks for yes or no, given the titles of the history and of the candidate. LoRA is added
to the query and value projections of the same backbone as MLLM-MSR, without images and without a
written preference, so that only these differ. The validation AUC selects the weights. The original
separates liked and disliked titles; interactions here have no ratings, so all of them count as
liked. Items that are not in the catalog have no score.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import polars as pl
from pydantic import PositiveInt

from mllm_msr import registry
from mllm_msr.baselines._llm.prompted import PromptedRecommender
from mllm_msr.baselines._llm.title_prompts import title_examples
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.config.loading import validate_section
from mllm_msr.config.train_settings import Precision, TrainSettings
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Backend, TrainingData
from mllm_msr.models.processor_options import ProcessorOptions
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.prompt_scorer import PromptScorer
from mllm_msr.ranker.saved_recommender import load_items, save_items
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.storage.atomic import sync_tree
from mllm_msr.types import Seed, Share

_NAME: Final = "tallrec"
_ADAPTER: Final = "adapter"
_TARGET: Final = ("q_proj", "v_proj")
_TRAINING: Final = (
    *("rank", "alpha", "dropout", "learning_rate", "batch_size", "accumulate"),
    *("epochs", "max_steps", "early_stopping_patience", "precision", "seed"),
)
_PROMPT: Final = ("item_type", "n_last", "max_text_tokens")


@final
class Tallrec(PromptedRecommender):
    """Recommender with a fine-tuned, text-only language model.

    Args:
        backend: Name of a backend whose weights can be fine-tuned in this process.
        options: Constructor arguments of the backend, such as `checkpoint`.
        item_type: Word for an item in the prompts, such as "movie".
        n_last: Number of latest titles of a history that are shown, at least 1.
        max_text_tokens: Upper bound on the text tokens of a prompt; None for no limit.
        max_examples: Size of a seeded sample of training examples, at least 1; None for all.
        rank: Rank of the LoRA matrices.
        alpha: The LoRA scale is alpha / rank.
        dropout: Dropout before the LoRA matrices.
        learning_rate: Peak learning rate.
        batch_size: Examples per forward pass.
        accumulate: Forward passes per optimizer step; the defaults give the paper's batch of 128.
        epochs: Passes over the examples.
        max_steps: Maximum number of optimizer steps.
        early_stopping_patience: Validations without improvement before training stops.
        precision: Precision of matrix products in training: "bf16", "fp16" or "fp32".
        max_error_rate: Fraction of prompts in [0, 1] that may fail in scoring.
        seed: Seed of the sample, the LoRA matrices and the order of examples.

    Raises:
        SettingsError: A value is out of range, or the backend cannot be fine-tuned here.
    """

    label: ClassVar[str] = "TALLRec"

    def __init__(
        self,
        *,
        backend: str = "demo",
        options: Mapping[str, Any] | None = None,
        item_type: str = "item",
        n_last: int = 10,
        max_text_tokens: PositiveInt | None = None,
        max_examples: int | None = None,
        rank: int = 8,
        alpha: int = 16,
        dropout: float = 0.05,
        learning_rate: float = 1e-4,
        batch_size: int = 16,
        accumulate: int = 8,
        epochs: float = 3,
        max_steps: int | None = None,
        early_stopping_patience: int = 3,
        precision: Precision = "bf16",
        max_error_rate: Share = 0.01,
        seed: Seed = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        options = dict(options or {})
        self._settings: dict[str, Any] = given | {"options": options}
        problems = [
            f"{name} must be at least 1, but is {value}."
            for name, value in (("n_last", n_last), ("max_examples", max_examples))
            if value is not None and value < 1
        ]
        self._backend = registry.find_backend(backend)
        self._checkpoint = self._backend.trainable_checkpoint(**options)
        if self._checkpoint is None:
            problems.append(
                f"backend={backend!r} with options={options} has no weights to fine-tune. Use "
                "'huggingface' with a checkpoint, or 'demo'."
            )
        if problems:
            raise SettingsError(problems)
        self._training = validate_section(
            TrainSettings,
            {**{name: given[name] for name in _TRAINING}, "target": _TARGET},
            key="baselines.tallrec",
        )
        self.training_progress: TrainingProgress = hide_progress
        self._scorer = PromptScorer(
            self._open_backend,
            max_error_rate=max_error_rate,
        )
        self._items: pl.DataFrame | None = None
        self._adapter: Path | None = None
        # Holds the adapter of `fit`; deleted together with this object.
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def fit(self, data: TrainingData) -> Self:
        """Fine-tune the model on the training users' candidates.

        Raises:
            MissingExtraError: Lightning or PEFT is not installed.
            DataError: There are no training candidates.
            TrainingError: Training cannot continue.
        """
        # Importing Lightning takes seconds; constructing or loading a recommender should not.
        from mllm_msr.ranker.training.trainer import train  # noqa: PLC0415

        self.close()
        rows = data.candidates.filter(pl.col("negatives") == "uniform")
        training = rows.filter(pl.col("split") == "train")
        max_examples = self._settings["max_examples"]
        if max_examples is not None and training.height > max_examples:
            training = training.sample(max_examples, seed=self._settings["seed"])
        folder = tempfile.TemporaryDirectory(prefix="mllm-msr-tallrec-")
        train_examples, validation_examples = (
            list(self._examples(part, data.interactions, data.items))
            for part in (training, rows.filter(pl.col("split") == "validation"))
        )
        summary = train(
            train_examples,
            validation_examples,
            checkpoint=str(self._checkpoint),
            output=Path(folder.name),
            settings=self._training,
            revision=self._settings["options"].get("revision"),
            options=(prepared := ProcessorOptions.from_arguments(self._settings["options"])),
            show=self.training_progress,
        )
        prepared.save(summary.weights)
        self._items, self._adapter, self._folder = data.items, summary.weights, folder
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Return P(yes) of every candidate, in [0, 1]; null if its prompt fails.

        Raises:
            BackendError: The model fails, or too many prompts failed.
        """
        items, _ = self._fitted()
        return self._scorer.score(
            candidates, lambda rows: self._examples(rows, interactions, items)
        )

    def save(self, folder: Path) -> None:
        """Write settings, items and the adapter in PEFT's format."""
        items, adapter = self._fitted()
        shutil.copytree(adapter, folder / _ADAPTER, dirs_exist_ok=True)
        sync_tree(folder / _ADAPTER)
        save_items(folder, self._settings, items)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the adapter stays in the folder."""
        settings, items = load_items(folder)
        if not (folder / _ADAPTER).is_dir():
            raise damaged(folder, f"no folder {_ADAPTER}")
        try:
            loaded = cls(**settings)
        except (TypeError, SettingsError) as cause:
            raise damaged(folder, str(cause)) from cause
        loaded._items, loaded._adapter = items, folder / _ADAPTER
        return loaded

    def _examples(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame, items: pl.DataFrame
    ) -> Iterator[Example]:
        prompt = {name: self._settings[name] for name in _PROMPT}
        return title_examples(candidates, interactions, items, use_images=False, **prompt)

    def _open_backend(self) -> Backend:
        _, adapter = self._fitted()
        options = self._backend.with_adapter(self._settings["options"], adapter, "lora")
        return self._backend(**options)

    def _fitted(self) -> tuple[pl.DataFrame, Path]:
        if self._items is None or self._adapter is None:
            raise unfitted(_NAME)
        return self._items, self._adapter
