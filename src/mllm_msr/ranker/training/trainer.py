"""Supervised fine-tuning of the MLLM ranker.

`train` takes labeled examples and writes an adapter (or full weights) that the backends load. It
keeps the weights with the best validation AUC. A killed run resumes from its last state, to the
same weights as an uninterrupted run. Sections "Tuning MLLM based Recommender" and "Implementation
Details" of the paper.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import torch

from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.config.train_settings import Precision, TrainSettings
from mllm_msr.errors import DataError, MissingExtraError, SettingsError
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.processor_options import DEFAULT_OPTIONS, ProcessorOptions
from mllm_msr.models.vector_tokens import find_vector_projector
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.ranker.calibration import IDENTITY, fit_calibration
from mllm_msr.ranker.distributed.base import DistributedStrategy
from mllm_msr.ranker.distributed.launch import temporary_process_group
from mllm_msr.ranker.distributed.strategies import make_strategy
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.training.checkpoint import (
    Progress,
    TrainingState,
    find_start,
)
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.ranker.training.fingerprint import run_fingerprint
from mllm_msr.ranker.training.lightning_output import QUIET_TRAINER, quiet_lightning
from mllm_msr.ranker.training.lora import (
    image_token_ids,
    learns_language_only,
    load_trainable,
    make_trainable,
    save_weights,
    swapped_weights,
    trainable_tensors,
)
from mllm_msr.ranker.training.sampler import StepSampler, plan_steps
from mllm_msr.ranker.training.trackers import make_trackers, require_trackers
from mllm_msr.ranker.training.validation import (
    ScoreMetric,
    ValidationMetric,
    auc_per_user,
    bind_metric,
)
from mllm_msr.storage import layout
from mllm_msr.storage.atomic import write_text

_LIGHTNING_PRECISION: Final[dict[Precision, str]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}
_SUMMARY: Final = "summary.json"


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """Result of a training run.

    Attributes:
        best_auc: Best validation value, `None` without validation examples.
        best_step: Optimizer step whose weights are kept.
        steps: Optimizer steps done.
        seconds: Time in the training loop, including validation and excluding interruptions.
        samples_per_second: Training examples per second of this time.
        stopped_because: Why training ended, as a phrase.
        weights: Folder of the adapter (PEFT) or of the full model (Hugging Face).
    """

    best_auc: float | None
    best_step: int
    steps: int
    seconds: float
    samples_per_second: float
    stopped_because: str
    weights: Path

    @classmethod
    def from_progress(cls, progress: Progress, weights: Path) -> Self:
        """Return the summary of a run that has ended."""
        n_examples = progress.step * progress.examples_per_step
        return cls(
            best_auc=progress.best,
            best_step=progress.step if progress.best is None else progress.best_step,
            steps=progress.step,
            seconds=progress.seconds,
            samples_per_second=n_examples / progress.seconds if progress.seconds else 0.0,
            stopped_because=progress.stopped_because,
            weights=weights,
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """Settings and progress of a training run."""

    settings: TrainSettings
    folder: Path
    fingerprint: Mapping[str, Any]
    start: TrainingState | None
    progress: Progress
    prompt: RecommendSettings
    n_dims: int | None


@temporary_process_group()
def train(
    train_examples: Sequence[Example],
    validation_examples: Sequence[Example],
    *,
    checkpoint: str,
    output: Path,
    settings: TrainSettings,
    prompt: RecommendSettings = DEFAULT_PROMPT,
    revision: str | None = None,
    projector: Path | None = None,
    options: ProcessorOptions = DEFAULT_OPTIONS,
    n_dims: int | None = None,
    validation_metric: ValidationMetric = auc_per_user,
    resume: bool = True,
    is_worker: bool = False,
    show: TrainingProgress = hide_progress,
) -> TrainingSummary:
    """Fine-tune a checkpoint to answer yes or no.

    Args:
        train_examples: Examples to learn from.
        validation_examples: Examples that select the weights; without any, the last weights are
            kept.
        checkpoint: Folder or hub id of the model.
        output: Folder for the weights (`adapter/` or `model/`) and for states, log and summary
            (`training/`).
        settings: Training settings.
        prompt: Order and content of the prompts; recorded in the folder of the weights.
        revision: Branch, tag or commit on the hub.
        projector: Weights of the projector, instead of those of the checkpoint.
        options: How images are prepared, and variables of the chat template.
        n_dims: Size of the vectors of users, if the prompts contain vectors.
        validation_metric: Metric of labels, P(yes) and users, higher is better.
        resume: Resume from the newest intact state; False trains from scratch.
        is_worker: Whether this process is a rank other than 0 of a distributed training.
        show: Shows progress.

    Raises:
        DataError: There are no training examples, or no validation user has both labels.
        SettingsError: A setting cannot be used on this machine.
        MissingExtraError: Lightning, DeepSpeed or the package of a tracker is not installed.
        StaleStageError: The saved state has other settings, another model or other examples.
        AnswerTokenError: "yes" or "no" is not a single token.
        NonFiniteLossError: The loss became NaN or infinite; the last state is intact.
    """
    _check_requirements(settings, train_examples)
    metric = bind_metric(validation_examples, validation_metric)
    weights: dict[str, Any] = {"revision": revision, "projector": projector, "options": options}
    loaded = load_model(checkpoint, **weights, **_load_options(settings))
    examples = {"train": train_examples, "validation": validation_examples}
    fingerprint = run_fingerprint(loaded.fingerprint, examples, settings)
    folder = output / layout.TRAINING
    start = find_start(folder, fingerprint, resume=resume, is_worker=is_worker)
    run = _Run(settings, folder, fingerprint, start, Progress.from_state(start), prompt, n_dims)
    return _train_loaded(
        loaded, examples, output, metric=metric, run=run, is_worker=is_worker, show=show
    )


def _train_loaded(
    loaded: LoadedCheckpoint,
    examples: Mapping[str, Sequence[Example]],
    output: Path,
    *,
    metric: ScoreMetric | None,
    run: _Run,
    is_worker: bool,
    show: TrainingProgress,
) -> TrainingSummary:
    """Train the rest of a run, and write the weights and the summary."""
    settings, start = run.settings, run.start
    model = make_trainable(loaded.model, settings, n_dims=run.n_dims)
    validation_examples = examples["validation"]
    if start is not None:
        load_trainable(model, start.part("model."))
    is_rank_zero = not is_worker
    if not run.progress.stopped_because:
        renderer = Renderer(
            loaded.processor,
            supports_images=loaded.supports_images,
            projector=find_vector_projector(model),
        )
        is_rank_zero = _fit(
            model,
            renderer,
            examples["train"],
            validation_examples,
            metric=metric,
            run=run,
            show=show,
        )
    summary = TrainingSummary.from_progress(
        run.progress, output / layout.WEIGHTS[settings.weight_format]
    )
    if is_rank_zero:
        labels = [example.label for example in validation_examples]
        _save_result(model, loaded.processor, run, summary, labels)
    return summary


def _check_requirements(settings: TrainSettings, train_examples: Sequence[Example]) -> None:
    extras = {"lightning": "train"}
    if settings.strategy.startswith("deepspeed"):
        extras["deepspeed"] = "deepspeed"
    for package, extra in extras.items():
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)
    require_trackers(settings.loggers)
    if not train_examples:
        raise DataError(
            "There are no training examples. Every training user should have candidates with "
            "split 'train'; prepare the data again."
        )
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise SettingsError(["train.precision=fp16 needs a GPU. Use bf16 or fp32."])


def _load_options(settings: TrainSettings) -> dict[str, Any]:
    """Return how to load the model: frozen weights have the precision of the matrix products."""
    on_gpu = torch.cuda.is_available()
    return {
        "dtype": settings.dtype,
        "device": "cpu",
        # Matrix products have the precision bf16 on a CPU as well, whatever that of the weights.
        "attention": "auto" if on_gpu or settings.precision == "fp32" else "blocked",
    }


@quiet_lightning()
def _fit(
    model: torch.nn.Module,
    renderer: Renderer,
    train_examples: Sequence[Example],
    validation_examples: Sequence[Example],
    *,
    metric: ScoreMetric | None,
    run: _Run,
    show: TrainingProgress,
) -> bool:
    """Run Lightning over the remaining steps; `model` and `run.progress` change in place.

    Returns:
        Whether this process is rank 0.
    """
    # These import Lightning, which takes seconds.
    from mllm_msr.ranker.training.callback import TrainingCallback  # noqa: PLC0415
    from mllm_msr.ranker.training.module import FineTuningModule  # noqa: PLC0415

    settings = run.settings
    strategy = make_strategy(settings)
    trainer = _lightning_trainer(settings, strategy, run.folder)
    collate = functools.partial(Collator, renderer, order=run.prompt.order)
    collator = collate(train_examples, loss=settings.loss, image_token_ids=image_token_ids(model))
    lists = collator.lists() if settings.objective == "listwise" else None
    sampler = _step_sampler(collator, lists, settings, trainer)
    run.progress.examples_per_step = sampler.examples_per_step
    caches_vision = settings.cache_vision and learns_language_only(model)
    vision = VisionCache.open(model, renderer, collator.with_images()) if caches_vision else None
    module = FineTuningModule(
        model,
        collator,
        lists,
        validation=collate(validation_examples) if validation_examples else None,
        sampler=sampler,
        vision=vision,
        settings=settings.model_copy(update={"accumulate": trainer.accumulate_grad_batches}),
        strategy=strategy,
        start=run.start,
    )
    model.train()
    with show(sampler.n_steps, run.progress.step) as advance:
        steps_per_epoch = max(1, round(sampler.n_steps / settings.epochs))
        callback = TrainingCallback(
            run.folder,
            run.progress,
            fingerprint=run.fingerprint,
            metric=metric,
            validate_every=settings.validate_every or steps_per_epoch,
            checkpoint_every=settings.checkpoint_every,
            early_stopping_patience=settings.early_stopping_patience,
            batch_size=settings.batch_size * max(map(len, lists or [[0]])),
            advance=advance,
            show=show,
        )
        trainer.callbacks.append(callback)
        trainer.fit(module)
    strategy.gather(model)
    return bool(trainer.is_global_zero)


def _step_sampler(
    collator: Collator,
    lists: Sequence[Sequence[int]] | None,
    settings: TrainSettings,
    trainer: Any,
) -> StepSampler:
    """Return the examples or lists of all steps, and make the trainer accumulate accordingly."""
    lengths, groups = collator.lengths(), None
    if lists is None:
        groups = collator.prefix_groups()
    else:
        lengths = [max(lengths[index] for index in one) for one in lists]
    plan = plan_steps(len(lengths), settings, n_devices=trainer.world_size)
    trainer.accumulate_grad_batches = plan.accumulate
    return StepSampler(
        lengths,
        plan.examples_per_step,
        n_steps=plan.n_steps,
        seed=settings.seed,
        groups=groups,
        whole_groups=lists is None and collator.order != "item-first",
    )


def _lightning_trainer(settings: TrainSettings, strategy: DistributedStrategy, folder: Path) -> Any:
    import lightning  # noqa: PLC0415 - takes seconds

    return lightning.Trainer(
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=strategy.lightning_strategy(),
        precision=_LIGHTNING_PRECISION[settings.precision],
        max_epochs=1,
        gradient_clip_val=settings.clip,
        logger=make_trackers(settings.loggers, folder.parent, run=folder.parent.name),
        default_root_dir=folder,
        **QUIET_TRAINER,
    )


def _save_result(
    model: torch.nn.Module,
    processor: Any,
    run: _Run,
    summary: TrainingSummary,
    labels: Sequence[int],
) -> None:
    """Write the best weights (the last ones without validation), calibration and summary.

    Args:
        model: Trained model.
        processor: Processor of the model.
        run: The training run.
        summary: Its result.
        labels: Labels of the validation examples.
    """
    scores = run.progress.best_scores
    with swapped_weights(model, run.progress.best_weights or trainable_tensors(model)):
        save_weights(
            model,
            processor,
            summary.weights,
            method=run.settings.weight_format,
            prompt=run.prompt,
            calibration=fit_calibration(labels, scores) if scores else IDENTITY,
            step=summary.best_step,
        )
    values = {**asdict(summary), "weights": summary.weights.name}
    write_text(run.folder / _SUMMARY, json.dumps(values, indent=1) + "\n")
