"""MLLM-MSR as a `Recommender`: P(yes) from the user's preference, and an item's title and image.

Equation (1) and section "Tuning MLLM based Recommender" of the paper. `fit` fine-tunes the model
on the training candidates; zero-shot is the same recommender without fine-tuning. The direct and
text-only variants of the paper's ablation differ in the preferences that they read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast, final

import polars as pl

from mllm_msr import registry
from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import CapabilityError, DataError, SettingsError, TrainingError
from mllm_msr.interfaces import Backend, Recommender, TrainingData
from mllm_msr.models.processor_options import ProcessorOptions
from mllm_msr.prompts.item_types import ItemType, find_item_type
from mllm_msr.ranker.calibration import IDENTITY, Calibration, read_calibration
from mllm_msr.ranker.collaborative import (
    CollaborativeVectors,
    fit_vectors,
    load_vectors,
    require_vectors,
)
from mllm_msr.ranker.examples import Example, build_examples, hide_some_items, hide_unused_images
from mllm_msr.ranker.prompt_record import require_prompt, require_prompt_of
from mllm_msr.ranker.prompt_scorer import PromptScorer, ScoringProgress, no_progress
from mllm_msr.ranker.saved_recommender import damaged_model, load_items, save_items
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.ranker.training_candidates import select_candidates, with_input
from mllm_msr.storage.atomic import replace_file, sync_tree
from mllm_msr.tables import PREFERENCES, SUMMARIES, conform

if TYPE_CHECKING:
    from mllm_msr.ranker.training.trainer import TrainingSummary

MLLM_MSR: Final = "mllm_msr"
ZERO_SHOT: Final = "zero_shot"

_PREFERENCES: Final = "preferences.parquet"
_SUMMARIES: Final = "summaries.parquet"
_WEIGHTS: Final = "weights"
# Opens the backend that answers the prompts, with fine-tuned weights or (None) without.
BackendOpener = Callable[[Path | None], Backend]


@dataclass(frozen=True, slots=True)
class Variant:
    """A named configuration of MLLM-MSR.

    Attributes:
        name: Name in settings, commands and tables.
        label: Name in reports.
        remark: Note below the tables of a report.
        fine_tuned: Whether `fit` fine-tunes the model.
        overrides: Settings that differ from the main run, as `key=value`; a variant with
            overrides is a separate run in `variants/`.
        shares: Stages that such a run shares with the main run.
    """

    name: str
    label: str = ""
    remark: str = ""
    fine_tuned: bool = True
    overrides: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()


DIRECT: Final = Variant(
    "mllm_msr_direct",
    "MLLM-MSR_R (direct)",
    "whole history in one prompt",
    overrides=("infer.method=direct",),
    shares=("prepare", "summarize"),
)
TEXT_ONLY: Final = Variant(
    "mllm_msr_text_only",
    "MLLM-MSR_T (text-only preferences)",
    "preferences without image summaries",
    overrides=("infer.use_images=false",),
    shares=("prepare", "summarize"),
)
VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant(MLLM_MSR, "MLLM-MSR"),
            Variant(ZERO_SHOT, "Zero-shot", "without fine-tuning", fine_tuned=False),
            DIRECT,
            TEXT_ONLY,
        )
    }
)


@final
class MllmRecommender(Recommender):
    """The paper's recommender, fine-tuned or zero-shot.

    Users without a preference before the target are scored with a neutral sentence instead. Items
    whose image cannot be read are scored from their title. Items that are not in the catalog, and
    those whose prompt fails, have no score.

    Args:
        backend: Name of the backend that scores.
        options: Constructor arguments of the backend, such as `checkpoint`.
        training: How `fit` fine-tunes; None scores zero-shot.
        item_type: Word for an item in the prompts, such as "movie".
        prompt: Order and content of the prompts, the same for fine-tuning and scoring.
        max_text_tokens: Upper bound on the text tokens of a prompt; the preference is trimmed
            first, then the title.
        max_error_rate: Fraction of prompts in [0, 1] that may fail in scoring.
        trains: Backend and options of the model to fine-tune, if another backend scores.
        output: Folder in which `fit` writes weights and training states, so that a killed
            training run resumes; a temporary folder if None.
        open_backend: Opens the scoring backend, for example behind a response cache; by default
            `backend` is constructed with `options`.
        fit_baseline: Fits the baseline of `prompt.collaborative`; by default, it is constructed
            with its default arguments.
        resume: Whether `fit` resumes from the newest training state in `output`.
        is_worker: Whether this process is a rank other than 0 of a distributed training.
        scoring_progress: Shows the progress of `score`.
        training_progress: Shows the progress of `fit`, see `training.trainer.train`.

    Attributes:
        training_summary: Result of the last `fit`; None before it and for zero-shot.
        n_examples: Number of training examples of the last `fit`.
        weights: Folder of the fine-tuned weights; None for zero-shot.
    """

    label: ClassVar[str] = VARIANTS[MLLM_MSR].label
    requires_llm = True

    def __init__(
        self,
        *,
        backend: str = "demo",
        options: Mapping[str, Any] | None = None,
        training: TrainSettings | None = None,
        item_type: str | ItemType = "item",
        prompt: RecommendSettings = DEFAULT_PROMPT,
        max_text_tokens: int | None = None,
        max_error_rate: float = 0.01,
        trains: tuple[str, Mapping[str, Any]] | None = None,
        output: Path | None = None,
        open_backend: BackendOpener | None = None,
        fit_baseline: Callable[[str, TrainingData], Recommender] | None = None,
        resume: bool = True,
        is_worker: bool = False,
        scoring_progress: ScoringProgress = no_progress,
        training_progress: TrainingProgress = hide_progress,
    ) -> None:
        self._settings: dict[str, Any] = {
            "backend": backend,
            "options": dict(options or {}),
            "item_type": str(item_type),
            "prompt": prompt.model_dump(mode="json"),
            "max_text_tokens": max_text_tokens,
            "max_error_rate": max_error_rate,
        }
        self._item_type = find_item_type(item_type)
        self._prompt = prompt
        self._training = training
        self._trains = trains or (backend, dict(options or {}))
        self._output = output
        self._resume = resume
        self._is_worker = is_worker
        self._fit_baseline = fit_baseline
        self._training_progress = training_progress
        opener = open_backend or self._default_backend
        self._scorer = PromptScorer(
            lambda: opener(self.weights),
            order=prompt.order,
            max_error_rate=max_error_rate,
            progress=scoring_progress,
        )
        self._items: pl.DataFrame | None = None
        self._preferences: pl.DataFrame | None = None
        self._summaries: pl.DataFrame | None = None
        self._vectors: CollaborativeVectors | None = None
        # Holds the weights of `fit` if there is no `output`; deleted together with this object.
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.weights: Path | None = None
        self.training_summary: TrainingSummary | None = None
        self.n_examples = 0

    def fit(self, data: TrainingData) -> Self:
        """Store preferences and items and, unless zero-shot, fine-tune the model.

        Raises:
            DataError: `data` has no preferences, or no training candidates.
            CapabilityError: The backend has no weights in this process.
            MissingExtraError: Lightning or PEFT is not installed.
            TrainingError: Training cannot continue.
        """
        self.attach(data, weights=None)
        if self._training is not None:
            self.weights = self._fine_tune(data)
        return self

    def attach(self, data: TrainingData, *, weights: Path | None) -> Self:
        """Store preferences and items, and use weights from an earlier `fit`.

        Args:
            data: As for `fit`; its candidates are not read.
            weights: Folder that an earlier `fit` wrote; None for zero-shot.

        Raises:
            DataError: `data` has no preferences.
            SettingsError: The weights were fine-tuned with other prompts.
            CapabilityError: The backend cannot read the vectors of `prompt.collaborative`.
        """
        if data.preferences is None and self._prompt.reads_preference:
            raise DataError("MLLM-MSR needs preferences. Run the stage 'infer' first.")
        settings = self._settings
        require_prompt_of(settings["backend"], settings["options"], self._prompt)
        if self._training is not None:
            require_vectors(settings["backend"], self._prompt)
        if weights is not None:
            require_prompt(weights, self._prompt)
        self.close()
        self._vectors = load_vectors(weights or settings["options"].get("adapter"), self._prompt)
        self._items = hide_unused_images(data.items, data.summaries)
        self._preferences, self.weights = data.preferences, weights
        self._summaries = data.summaries if self._prompt.item_text == "summary" else None
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Return P(yes) of every candidate, in [0, 1], or null.

        The history of a candidate is the preference inferred before its position, and the titles
        of the latest `interactions` before it, as the prompt's settings say.

        Raises:
            BackendError: The model fails, or more prompts failed than `max_error_rate` allows.
        """
        known = self._fitted()["item_id"].implode()
        return self._scorer.score(
            candidates,
            lambda rows: self._examples(rows.filter(pl.col("item_id").is_in(known)), interactions),
        )

    def complete_histories(self, targets: pl.DataFrame) -> pl.DataFrame:
        """Return the targets whose preference was inferred from everything before them.

        At the end of a history it always is; elsewhere, only after a complete block. There are none
        with collaborative vectors, whose baseline has learned from the visible interactions.
        """
        if self._vectors is not None:
            return targets.clear()
        if not self._prompt.reads_preference or self._preferences is None:
            return targets
        read = self._preferences.select("user_id", position="n_items")
        return targets.join(read, on=["user_id", "position"], how="semi")

    @property
    def calibration(self) -> Calibration:
        """Return the calibration of P(yes), which `score` does not apply."""
        return IDENTITY if self.weights is None else read_calibration(self.weights)

    def usage(self) -> dict[str, int]:
        """Return the counts of model calls, tokens and failed prompts of all scoring so far."""
        return self._scorer.usage()

    def close(self) -> None:
        """Close the backend; `score` opens it again."""
        self._scorer.close()

    def save(self, folder: Path) -> None:
        """Write settings, items, texts and weights; images stay where they are."""
        items = self._fitted()
        training = None if self._training is None else self._training.model_dump(mode="json")
        if self.weights is not None:
            shutil.copytree(self.weights, folder / _WEIGHTS, dirs_exist_ok=True)
            sync_tree(folder / _WEIGHTS)
        texts = {_PREFERENCES: self._preferences, _SUMMARIES: self._summaries}
        for name, table in texts.items():
            if table is not None:
                with replace_file(folder / name) as temporary:
                    table.write_parquet(temporary)
        own = {"training": training, "templates": dict(self._item_type.templates)}
        save_items(folder, {**self._settings, **own}, items)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the weights stay in the folder."""
        settings, items = load_items(folder)
        weights = folder / _WEIGHTS
        try:
            training = settings.pop("training")
            words = find_item_type(settings.pop("item_type"))
            templates = tuple(dict(settings.pop("templates")).items())
            prompt = RecommendSettings.model_validate(settings.pop("prompt"))
            loaded = cls(
                **settings,
                prompt=prompt,
                item_type=replace(words, templates=templates),
                training=None if training is None else TrainSettings.model_validate(training),
            )
            adapter = settings["options"].get("adapter")
            preferences = summaries = None
            if prompt.reads_preference:
                preferences = pl.read_parquet(folder / _PREFERENCES)
                preferences = conform(preferences, PREFERENCES, name="preferences")
            if prompt.item_text == "summary":
                summaries = pl.read_parquet(folder / _SUMMARIES)
                summaries = conform(summaries, SUMMARIES, name="summaries")
        except (
            OSError, AttributeError, KeyError, TypeError, ValueError, DataError, SettingsError,
            pl.exceptions.PolarsError,
        ) as cause:  # fmt: skip
            raise damaged_model(folder, cause) from cause
        if training is not None and not weights.is_dir():
            raise damaged_model(folder, f"no folder {_WEIGHTS}")
        loaded._items, loaded._preferences, loaded._summaries = items, preferences, summaries
        loaded.weights = weights if training is not None else None
        loaded._vectors = load_vectors(loaded.weights or adapter, prompt)
        return loaded

    def _fine_tune(self, data: TrainingData) -> Path:
        # Importing Lightning takes seconds; constructing or loading a recommender should not.
        from mllm_msr.ranker.training.trainer import train  # noqa: PLC0415

        assert self._training is not None
        backend, options = self._trains
        kind = registry.find_backend(backend)
        checkpoint = kind.trainable_checkpoint(**options)
        if checkpoint is None:
            raise CapabilityError(
                f"The backend {backend!r} has no weights to fine-tune. Set "
                "model.backend=huggingface with model.checkpoint, or train.enabled=false."
            )
        if self._output is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="mllm-msr-")
        training_rows = data.candidates.filter(pl.col("split") == "train")
        training_rows = with_input(training_rows, self._prompt, self._preferences)
        training_rows = select_candidates(training_rows, data.interactions, self._training)
        validation_rows = data.candidates.filter(split="validation", negatives="uniform")
        self.n_examples = training_rows.height
        self._vectors = fit_vectors(self._prompt, data, training_rows, fit=self._fit_baseline)
        examples = self._examples(training_rows, data.interactions)
        self.training_summary = train(
            hide_some_items(examples, seed=self._training.seed),
            list(self._examples(validation_rows, data.interactions)),
            checkpoint=checkpoint,
            output=self._output or Path(cast("Any", self._temporary).name),
            settings=self._training,
            prompt=self._prompt,
            revision=options.get("revision"),
            projector=options.get("projector"),
            options=(prepared := ProcessorOptions.from_arguments(options)),
            n_dims=None if self._vectors is None else self._vectors.n_dims,
            resume=self._resume,
            is_worker=self._is_worker,
            show=self._training_progress,
        )
        if not self._is_worker:
            prepared.save(self.training_summary.weights)
            if self._vectors is not None:
                self._vectors.save(self.training_summary.weights)
        return self.training_summary.weights

    def _examples(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> Iterator[Example]:
        items = self._fitted()
        if self._prompt.use_images:
            items = self._scorer.readable_items(items, candidates)
        return build_examples(
            candidates,
            self._preferences,
            items,
            item_type=self._item_type,
            settings=self._prompt,
            interactions=interactions,
            summaries=self._summaries,
            vectors=self._vectors,
            max_text_tokens=self._settings["max_text_tokens"],
        )

    def _default_backend(self, weights: Path | None) -> Backend:
        kind = registry.find_backend(self._settings["backend"])
        options = self._settings["options"]
        if weights is not None:
            assert self._training is not None
            options = kind.with_adapter(options, weights, self._training.weight_format)
        return kind(**options)

    def _fitted(self) -> pl.DataFrame:
        """Return the catalog."""
        if self._items is None:
            raise TrainingError("MLLM-MSR is not fitted. Call fit or load first.")
        return self._items
