"""Supervised fine-tuning of the recommender: the stage `train`.

Takes examples with their labels, yields an adapter (or whole weights) that the backends load. The
checkpoint with the best validation AUC is the one that stays. A run that is killed goes on from
its last state, to the same weights as if it had never stopped. Sections "Tuning MLLM based
Recommender" and "Implementation Details" of the paper.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import torch

from mllm_msr.config.settings import Precision, TrainSettings
from mllm_msr.errors import DataError, MissingExtraError, SettingsError, StaleStageError
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.ranker.distributed.base import Sharing, sharing_of
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.training.checkpoint import LOG_FILE, Progress, TrainingState, load_newest
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.fingerprint import training_fingerprint
from mllm_msr.ranker.training.lightning_output import quiet_lightning
from mllm_msr.ranker.training.lora import (
    WEIGHT_FOLDERS,
    add_lora,
    image_token_ids,
    load_trainable,
    save_weights,
    swapped_weights,
    trainable_tensors,
    unfreeze_language,
)
from mllm_msr.ranker.training.sampler import Schedule, count_steps
from mllm_msr.ranker.training.validation import Judge, ValidationMetric, auc_per_user, judge_of
from mllm_msr.ranker.training.vision_cache import VisionCache
from mllm_msr.storage import layout
from mllm_msr.storage.atomic import write_text
from mllm_msr.types import TextPart

_LIGHTNING_PRECISION: Final[dict[Precision, str]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}
_DTYPES: Final[dict[Precision, Literal["bfloat16", "float16", "float32"]]] = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}
_SUMMARY: Final = "summary.json"

logger = logging.getLogger(__name__)

Show = Callable[[int, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def unseen(n_steps: int, done: int) -> Iterator[Callable[[int], None]]:
    """Progress that nobody watches."""
    del n_steps, done
    yield lambda _: None


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How a training run ended.

    Attributes:
        best_auc: Best validation value, `None` without validation examples.
        best_step: The optimiser step whose weights were kept.
        steps: Optimiser steps done.
        seconds: Time in the training loop, validation included, interruptions not.
        samples_per_second: Training examples seen per such second.
        stopped_because: One phrase.
        weights: Folder of the adapter (PEFT) or of the whole model (Hugging Face).
    """

    best_auc: float | None
    best_step: int
    steps: int
    seconds: float
    samples_per_second: float
    stopped_because: str
    weights: Path


def train(
    train_examples: Sequence[Example],
    validation_examples: Sequence[Example],
    *,
    checkpoint: str,
    output: Path,
    settings: TrainSettings,
    revision: str | None = None,
    validation_metric: ValidationMetric = auc_per_user,
    resume: bool = True,
    is_worker: bool = False,
    show: Show = unseen,
) -> TrainingSummary:
    """Fine-tune a checkpoint to answer yes or no.

    Args:
        train_examples: Examples to learn from.
        validation_examples: Examples that choose the checkpoint; may be empty, then the last
            weights are kept.
        checkpoint: Folder or hub id of the model.
        output: Folder for `adapter/` or `model/`, and for `training/` (states, log, summary).
        settings: How to train.
        revision: Branch, tag or commit on the hub.
        validation_metric: From labels, P(yes) and users to a value, higher is better.
        resume: Go on from the newest sound state; `False` starts anew.
        is_worker: This process joins a training that another one leads: it writes nothing, and goes
            on from the state that its leader has left in place.
        show: Shows progress: called with the number of optimiser steps and of those done
            before, it yields what is called with 1 after each further step.

    Returns:
        What happened, and where the weights are.

    Raises:
        DataError: There is nothing to learn from, or no validation user has both labels.
        SettingsError: A setting cannot be used on this machine.
        MissingExtraError: Lightning, PEFT, TensorBoard or DeepSpeed is not installed.
        StaleStageError: The saved state was made under other settings or examples.
        AnswerTokenError: Yes and no are not one token each.
        NonFiniteLossError: The loss became NaN or infinite; the last state is untouched.
    """
    _refuse(settings, train_examples)
    judge = judge_of(validation_examples, validation_metric)
    loaded = _load(checkpoint, revision, settings)
    facts = {
        "model": loaded.fingerprint,
        "train_examples": _digest(train_examples),
        "validation_examples": _digest(validation_examples),
        **training_fingerprint(settings),
    }
    folder = output / layout.TRAINING
    start = None if is_worker else _start(folder, facts, resume=resume)
    _meet()
    if is_worker:
        start = load_newest(folder)
    progress = Progress.of(start)
    model = _learning_model(loaded.model, settings)
    if start is not None:
        load_trainable(model, start.part("model."))
    writes = True
    if not progress.stopped_because:
        writes = _fit(
            model,
            loaded,
            train_examples=train_examples,
            validation_examples=validation_examples,
            judge=judge,
            settings=settings,
            folder=folder,
            facts=facts,
            start=start,
            progress=progress,
            show=show,
        )
    weights = output / WEIGHT_FOLDERS[settings.method]
    summary = _summary(progress, weights)
    if writes:
        with swapped_weights(model, progress.best_weights or trainable_tensors(model)):
            save_weights(
                model, loaded.processor, weights, method=settings.method, step=summary.best_step
            )
        _write_summary(folder, summary)
    return summary


def _refuse(settings: TrainSettings, train_examples: Sequence[Example]) -> None:
    extras = {"lightning": "train"}
    if settings.tensorboard:
        extras["tensorboard"] = "train"
    if settings.strategy.startswith("deepspeed"):
        extras["deepspeed"] = "deepspeed"
    for package, extra in extras.items():
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)
    if not train_examples:
        raise DataError(
            needed="at least one training example",
            received="none",
            remedy="check the candidates: every training user should have rows of split 'train'",
        )
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise SettingsError(["train.precision fp16 needs a GPU, use bf16 or fp32 here"])


def _load(checkpoint: str, revision: str | None, settings: TrainSettings) -> LoadedCheckpoint:
    """The base model, frozen weights in the precision of the matrix products."""
    on_gpu = torch.cuda.is_available()
    return load_model(
        checkpoint,
        revision=revision,
        dtype="float32" if settings.method == "full" else _DTYPES[settings.precision],
        device="cpu",
        # The backward pass of fused attention is slow on CPUs in bfloat16.
        attention="auto" if on_gpu or settings.precision == "fp32" else "eager",
    )


def _digest(examples: Iterable[Example]) -> str:
    """Hexadecimal SHA-256 of what the examples say, images by their file's name."""
    digest = hashlib.sha256()
    for example in examples:
        parts = [part for message in example.prompt.messages for part in message.parts]
        shown = [part.text if isinstance(part, TextPart) else part.path.name for part in parts]
        digest.update(json.dumps([example.label, example.prompt.max_text_tokens, shown]).encode())
    return digest.hexdigest()


def _start(folder: Path, facts: dict[str, Any], *, resume: bool) -> TrainingState | None:
    """The state to go on from; the log is cut back to it."""
    if not resume and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = load_newest(folder)
    log = folder / LOG_FILE
    if state is None:
        log.unlink(missing_ok=True)
        return None
    saved = {name: value for name, value in state.facts.items() if name != "progress"}
    changed = sorted(n for n in {*facts, *saved} if facts.get(n) != saved.get(n))
    if changed:
        raise StaleStageError(
            needed=f"the training state in {folder} to be of this run",
            received=f"one made with another {', '.join(changed)}",
            remedy="take the old settings back, or start anew (--force, resume=False)",
        )
    rows = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= state.step]
    write_text(log, "".join(f"{row}\n" for row in kept))
    logger.info("going on from step %d", state.step)
    return state


def _meet() -> None:
    """Where torchrun has started all at once: nobody reads the state before the leader says so."""
    if torch.distributed.is_torchelastic_launched() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(torch.zeros(1))


def _learning_model(model: torch.nn.Module, settings: TrainSettings) -> torch.nn.Module:
    """The model with what learns unfrozen, and everything else frozen."""
    if settings.method == "full":
        model = unfreeze_language(model)
    else:
        model = add_lora(
            model,
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            init=settings.init,
            target=settings.target,
            seed=settings.seed,
        )
    if settings.gradient_checkpointing:
        enable: Any = model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _fit(
    model: torch.nn.Module,
    loaded: LoadedCheckpoint,
    *,
    train_examples: Sequence[Example],
    validation_examples: Sequence[Example],
    judge: Judge | None,
    settings: TrainSettings,
    folder: Path,
    facts: dict[str, Any],
    start: TrainingState | None,
    progress: Progress,
    show: Show,
) -> bool:
    """Run Lightning's loop over the steps that are left; `progress` and `model` change in place.

    Returns:
        Whether this process is the one, of all that trained together, that writes the result.
    """
    # Only here, because these two import Lightning, which takes seconds.
    from mllm_msr.ranker.training.callback import Keeper  # noqa: PLC0415
    from mllm_msr.ranker.training.module import FineTuning  # noqa: PLC0415

    renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
    collator = Collator(
        renderer,
        train_examples,
        loss=settings.loss,
        image_token_ids=image_token_ids(loaded.model),
    )
    with quiet_lightning():
        sharing = sharing_of(settings)
        trainer = _lightning_trainer(settings, sharing, folder)
        schedule = _schedule(collator, settings, n_devices=trainer.world_size)
        progress.examples_per_step = schedule.examples_per_step
        cached = settings.cache_vision and VisionCache.fits(model)
        module = FineTuning(
            model,
            collator,
            validation=Collator(renderer, validation_examples) if validation_examples else None,
            schedule=schedule,
            vision=VisionCache(model, renderer) if cached else None,
            settings=settings,
            sharing=sharing,
            start=start,
        )
        per_epoch = max(1, round(schedule.n_steps / settings.epochs))
        model.train()
        with show(schedule.n_steps, progress.step) as advance:
            keeper = Keeper(
                folder,
                progress,
                facts=facts,
                judge=judge,
                validate_every=settings.validate_every or per_epoch,
                checkpoint_every=settings.checkpoint_every,
                early_stopping_patience=settings.early_stopping_patience,
                batch_size=settings.batch_size,
                advance=advance,
            )
            trainer.callbacks.append(keeper)
            trainer.fit(module)
        sharing.join(model)
    return bool(trainer.is_global_zero)


def _schedule(collator: Collator, settings: TrainSettings, *, n_devices: int) -> Schedule:
    per_step = settings.batch_size * settings.accumulate * n_devices
    return Schedule(
        collator.lengths(),
        per_step,
        n_steps=count_steps(
            len(collator),
            examples_per_step=per_step,
            epochs=settings.epochs,
            max_steps=settings.max_steps,
        ),
        seed=settings.seed,
        images=collator.images(),
    )


def _lightning_trainer(settings: TrainSettings, sharing: Sharing, folder: Path) -> Any:
    import lightning  # noqa: PLC0415 - takes seconds
    from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415

    return lightning.Trainer(
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=sharing.lightning(),
        precision=_LIGHTNING_PRECISION[settings.precision],
        max_epochs=1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        logger=TensorBoardLogger(folder, name="tensorboard") if settings.tensorboard else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def _summary(progress: Progress, weights: Path) -> TrainingSummary:
    examples = progress.step * progress.examples_per_step
    return TrainingSummary(
        best_auc=progress.best,
        best_step=progress.best_step if progress.best is not None else progress.step,
        steps=progress.step,
        seconds=progress.seconds,
        samples_per_second=examples / progress.seconds if progress.seconds else 0.0,
        stopped_because=progress.stopped_because,
        weights=weights,
    )


def _write_summary(folder: Path, summary: TrainingSummary) -> None:
    values = {**asdict(summary), "weights": summary.weights.name}
    write_text(folder / _SUMMARY, json.dumps(values, indent=1) + "\n")
