"""The one training loop that all baselines share.

A baseline brings a network, its batches, a loss and, where there are validation users, a judge;
this file brings what must be the same for all: early stopping and the choice of the weights on
validation users only, bfloat16 products where the processor has them, seeds, a bounded time,
refusal of numbers that are not finite, and going on after a kill as if nothing had happened.
States are safetensors. Lightning, which `loop.py` imports, is loaded only when training starts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor

from mllm_msr.baselines._training.checks import not_a_share, too_small
from mllm_msr.errors import MissingExtraError, StaleStageError
from mllm_msr.ranker.training.checkpoint import Progress, TrainingState, load_newest
from mllm_msr.ranker.training.lightning_output import quiet_lightning

B = TypeVar("B")
Precision = Literal["auto", "bf16", "fp32"]
Judge = Callable[[], float]

_LIGHTNING_PRECISION: Final = {"bf16": "bf16-mixed", "fp32": "32-true"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How to train.

    Attributes:
        epochs: Passes over the data at most, at least 1.
        learning_rate: Adam's, constant, above 0.
        beta2: Adam's second decay, in [0, 1).
        weight_decay: Decoupled, at least 0.
        clip: Largest norm of the gradient; 0 leaves it alone.
        early_stopping_patience: Validations without gain before training stops, at least 1.
        validate_every: Epochs between validations, at least 1.
        max_minutes: Time after which training stops at the next batch, above 0. A run that
            reaches it depends on the machine's speed.
        precision: "bf16" runs matrix products under autocast, "fp32" does not, "auto" asks the
            processor.
        seed: Seed of dropout; the order of batches is the caller's.
    """

    epochs: int = 50
    learning_rate: float = 1e-3
    beta2: float = 0.98
    weight_decay: float = 0.0
    clip: float = 0.0
    early_stopping_patience: int = 5
    validate_every: int = 1
    max_minutes: float = 60.0
    precision: Precision = "auto"
    seed: int = 0

    def problems(self) -> list[str]:
        """One sentence for each value out of its range, for `SettingsError`."""
        found = too_small(self, "epochs", "early_stopping_patience", "validate_every")
        found += [
            f"{name} must be above 0, it is {getattr(self, name)}"
            for name in ("learning_rate", "max_minutes")
            if not getattr(self, name) > 0
        ]
        found += [
            f"{name} must not be negative, it is {getattr(self, name)}"
            for name in ("weight_decay", "clip")
            if not getattr(self, name) >= 0
        ]
        found += not_a_share(self, "beta2")
        if self.precision not in {"auto", "bf16", "fp32"}:
            found.append(f"precision must be auto, bf16 or fp32, it is {self.precision!r}")
        return found


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """How a training run ended.

    Attributes:
        epochs: Epochs done.
        best_epoch: The epoch whose weights were kept, counting from 1.
        best_value: Its validation value, None without a judge.
        seconds: Time in the loop, validations included, over all processes that took part.
        stopped_because: One phrase.
    """

    epochs: int
    best_epoch: int
    best_value: float | None
    seconds: float
    stopped_because: str

    @classmethod
    def of(cls, progress: Progress, *, judged: bool) -> TrainingLog:
        """The log of a run that has ended, with a judge or without."""
        return cls(
            epochs=progress.step,
            best_epoch=progress.best_step if judged else progress.step,
            best_value=progress.best,
            seconds=progress.seconds,
            stopped_because=progress.stopped_because,
        )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw from a seed within the block, and restore its generators afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    network: torch.nn.Module,
    epoch_batches: Callable[[int], Sequence[B]],
    *,
    loss: Callable[[B], Tensor],
    judge: Judge | None,
    options: LoopOptions,
    folder: Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> TrainingLog:
    """Train a network in place; it ends with the weights that the judge liked best.

    Args:
        network: What learns: every parameter that requires a gradient. Left in evaluation mode,
            on the CPU.
        epoch_batches: The batches of an epoch, 0 the first; must depend on the epoch alone.
            Batches are moved to the device by their `to` method, or are tensors.
        loss: Mean loss of a batch, called in training mode and under autocast.
        judge: Value of the network on validation users, higher is better; called in evaluation
            mode, without gradients and in float32. None keeps the last epoch's weights.
        options: How to train.
        folder: Where a state is kept after each epoch; a killed run with the same folder goes on
            from there. None keeps nothing.
        facts: What the states depend on besides `options` (JSON-able: settings, digests of data).

    Raises:
        MissingExtraError: Lightning is not installed.
        StaleStageError: The folder's state was made under other options or facts.
        NonFiniteLossError: The loss became NaN or infinite; the last state is untouched.
    """
    if importlib.util.find_spec("lightning") is None:
        raise MissingExtraError("lightning", "train")
    from mllm_msr.baselines._training.loop import Loop  # noqa: PLC0415 - imports Lightning, which takes seconds

    given = {**asdict(options), **(facts or {})}
    start = _start(folder, given)
    progress = Progress.of(start)
    if start is not None:
        network.load_state_dict(start.part("model."))
    if not progress.stopped_because:
        loop = Loop(
            network,
            epoch_batches,
            loss=loss,
            judge=judge,
            options=options,
            progress=progress,
            start=start,
            folder=folder,
            facts=given,
        )
        with seeded(options.seed), quiet_lightning():
            _lightning_trainer(options).fit(loop)
    network.cpu()
    if progress.best_weights:
        network.load_state_dict(progress.best_weights)
    network.eval()
    log = TrainingLog.of(progress, judged=judge is not None)
    logger.info("%s", log)
    return log


def runs_bf16() -> bool:
    """Whether bfloat16 matrix products are faster here than float32 ones."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def _lightning_trainer(options: LoopOptions) -> Any:
    import lightning  # noqa: PLC0415 - takes seconds

    chosen = options.precision
    if chosen == "auto":
        chosen = "bf16" if runs_bf16() else "fp32"
    return lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=_LIGHTNING_PRECISION[chosen],
        max_epochs=options.epochs,
        gradient_clip_val=options.clip or None,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _start(folder: Path | None, facts: Mapping[str, Any]) -> TrainingState | None:
    """The state to go on from."""
    if folder is None:
        return None
    state = load_newest(folder)
    if state is None:
        return None
    kept = state.facts["given"]
    changed = sorted(name for name in {*facts, *kept} if facts.get(name) != kept.get(name))
    if changed:
        raise StaleStageError(
            needed=f"the training state in {folder} to be of this run",
            received=f"one made with another {', '.join(changed)}",
            remedy="take the old settings back, or remove the folder to start anew",
        )
    logger.info("going on from epoch %d", state.step)
    return state
