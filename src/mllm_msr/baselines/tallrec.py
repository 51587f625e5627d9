"""TALLRec: a language model fine-tuned on titles alone (Bao et al. 2023).

Titles of the history, the candidate's title, yes or no; LoRA on the queries and values of the
same backbone as MLLM-MSR, without image and without a written preference, so that the two
differ by just these. The validation AUC chooses the weights. The original marks liked and
disliked titles; interactions here carry no ratings, so all of them count as liked. Items that
the catalog lacks get 0.5.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import polars as pl

from mllm_msr.baselines._llm.dialogues import score_dialogues, title_examples
from mllm_msr.baselines._llm.item_table import load_items, save_items
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.config.loading import validate_section
from mllm_msr.config.settings import Precision, TrainSettings
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.storage.atomic import sync_tree

_NAME: Final = "tallrec"
_ADAPTER: Final = "adapter"
_TARGET: Final = ("q_proj", "v_proj")
_TRAINING: Final = (
    *("rank", "alpha", "dropout", "learning_rate", "batch_size", "accumulate"),
    *("epochs", "max_steps", "early_stopping_patience", "precision", "seed"),
)
_FORM: Final = ("item_type", "n_last", "max_text_tokens")


@final
class Tallrec(Recommender):
    """A text-only recommender out of a language model.

    Args:
        backend: "demo" or "huggingface": backends whose weights can be tuned here.
        options: The backend's constructor arguments, such as `checkpoint`.
        item_type: What an item is called in the prompt.
        n_last: Titles of a history that are shown, the latest; at least 1.
        max_text_tokens: Budget of a prompt's text, in tokens; none where it is `None`.
        max_examples: Bound on training examples, at least 1, a seeded sample; all where it is
            `None`.
        rank: Rank of the LoRA matrices.
        alpha: Their scale is alpha / rank.
        dropout: Dropout before them.
        learning_rate: Peak learning rate.
        batch_size: Examples per forward pass.
        accumulate: Forward passes per step; the paper's batch is 128 in all.
        epochs: Passes over the examples.
        max_steps: Bound on optimiser steps.
        early_stopping_patience: Validations without gain before it stops.
        precision: Of matrix products in training: "bf16", "fp16" or "fp32".
        max_error_rate: Share of prompts that may fail in scoring, in [0, 1]; they get 0.5.
        seed: Seed of the sample, the matrices and the order of examples.

    Raises:
        SettingsError: A value is out of its range.
    """

    requires_llm: ClassVar[bool] = True

    def __init__(
        self,
        *,
        backend: str = "demo",
        options: Mapping[str, Any] | None = None,
        item_type: str = "item",
        n_last: int = 10,
        max_text_tokens: int | None = None,
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
        max_error_rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        self._settings: dict[str, Any] = given | {"options": dict(options or {})}
        problems = [
            f"{name} must be at least 1, it is {value}"
            for name, value in (("n_last", n_last), ("max_examples", max_examples))
            if value is not None and value < 1
        ]
        if backend not in {"demo", "huggingface"}:
            problems.append(f"backend must be demo or huggingface, it is {backend!r}")
        if backend == "huggingface" and "checkpoint" not in self._settings["options"]:
            problems.append("options must name a checkpoint for the backend huggingface")
        if problems:
            raise SettingsError(problems)
        chosen = {name: given[name] for name in _TRAINING}
        self._training = validate_section(
            TrainSettings, {**chosen, "target": _TARGET}, key="baselines.tallrec"
        )
        self._items: pl.DataFrame | None = None
        self._adapter: Path | None = None
        # Holds the adapter of `fit` until this object goes; `save` copies it.
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def fit(self, data: TrainingData) -> Self:
        """Tune the model on training users' candidates.

        Raises:
            MissingExtraError: Lightning or PEFT is not installed.
            DataError: There are no training candidates.
            TrainingError: Training cannot go on.
        """
        # Loads torch and takes seconds, which making the object or reading settings must not.
        from mllm_msr.ranker.training.trainer import train  # noqa: PLC0415

        rows = data.candidates.filter(pl.col("negatives") == "uniform")
        learned = rows.filter(pl.col("split") == "train")
        bound = self._settings["max_examples"]
        if bound is not None and learned.height > bound:
            learned = learned.sample(bound, seed=self._settings["seed"])
        home = tempfile.TemporaryDirectory(prefix="mllm-msr-tallrec-")
        form = {name: self._settings[name] for name in _FORM}
        examples, judged = (
            list(title_examples(part, data.interactions, data.items, use_images=False, **form))
            for part in (learned, rows.filter(pl.col("split") == "validation"))
        )
        summary = train(
            examples,
            judged,
            checkpoint=self._checkpoint(),
            output=Path(home.name),
            settings=self._training,
            revision=self._settings["options"].get("revision"),
        )
        self._items, self._adapter, self._home = data.items, summary.weights, home
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Each candidate's P(yes), in [0, 1].

        Raises:
            BackendError: The model cannot go on, or too many prompts failed.
        """
        items, adapter = self._fitted()
        return score_dialogues(
            candidates,
            interactions,
            items,
            backend=self._settings["backend"],
            options={**self._settings["options"], "adapter": adapter},
            max_error_rate=self._settings["max_error_rate"],
            use_images=False,
            **{name: self._settings[name] for name in _FORM},
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

    def _checkpoint(self) -> str:
        options = self._settings["options"]
        if self._settings["backend"] == "huggingface":
            return str(options["checkpoint"])
        return str(options.get("weights") or weights_folder())

    def _fitted(self) -> tuple[pl.DataFrame, Path]:
        if self._items is None or self._adapter is None:
            raise unfitted(_NAME)
        return self._items, self._adapter
