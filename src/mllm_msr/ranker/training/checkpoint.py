"""Training states on disk: the checkpoint format of the ranker and the neural baselines.

A state is a folder `state-STEP/` with a safetensors file and a JSON file that contains the hashes
of both; there is no pickle. The folder is written under a temporary name, flushed to disk and
renamed, so that a process killed at any time leaves only complete states. Training resumes from the
newest intact state.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mllm_msr.errors import NonFiniteLossError, StaleStageError
from mllm_msr.storage import verification
from mllm_msr.storage.atomic import (
    content_hash,
    make_private_folder,
    sync,
    sync_tree,
    wrap_os_errors,
    write_text,
)

# Log of the ranker's training, one JSON object per line, in the folder of the states.
LOG_FILE: Final = "log.jsonl"

_MAX_STATES: Final = 2
_TENSORS: Final = "tensors.safetensors"
_STATE: Final = "state.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingState:
    """State from which a training run resumes exactly.

    The order of the data and the dropout masks are functions of the seed and the step, so they
    are not part of the state.

    Attributes:
        step: Optimizer steps (ranker) or epochs (baselines) done.
        tensors: Current weights ("model.NAME"), best weights so far ("best.NAME"), and optimizer
            state ("optimizer.*").
        fingerprint: Settings, model and data that the run depends on, as JSON values.
        progress: `Progress` without its weights, as JSON values.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    fingerprint: Mapping[str, Any]
    progress: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose names start with a prefix, without it in their names."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


@dataclass
class Progress:
    """Progress of a training run; updated during training and saved with every state.

    Attributes:
        step: Optimizer steps (ranker) or epochs (baselines) done.
        examples_per_step: Examples of one optimizer step, over all devices; 0 for baselines.
        best: Best validation value so far, `None` before the first validation.
        best_step: Step of the best validation value.
        waited: Validations since the best one.
        seconds: Time in the training loop, over all interrupted and resumed processes.
        stopped_because: Why training ended; empty while it is running.
        scaler: State of the loss scaler; empty except for fp16.
        best_scores: P(yes) of the validation examples at `best_step`; empty for baselines.
        best_weights: Weights at `best_step`, on the CPU.
    """

    step: int = 0
    examples_per_step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    seconds: float = 0.0
    stopped_because: str = ""
    scaler: dict[str, Any] = field(default_factory=dict)
    best_scores: list[float] = field(default_factory=list)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: TrainingState | None) -> Self:
        """Return the progress of a saved state, or of a run that has not started."""
        if state is None:
            return cls()
        return cls(**state.progress, best_weights=state.part("best."))

    def record_validation(
        self,
        value: float,
        get_weights: Callable[[], Mapping[str, torch.Tensor]],
        *,
        patience: int,
        scores: Sequence[float] = (),
    ) -> None:
        """Record a validation value and decide on early stopping.

        Args:
            value: Validation value, higher is better.
            get_weights: Returns the weights that reached it; called, and the weights copied to
                the CPU, only if the value is the best so far.
            patience: Validations without improvement after which training stops.
            scores: P(yes) of the validation examples, if the value was computed from them.
        """
        if self.best is None or value > self.best:
            self.best, self.best_step, self.waited = value, self.step, 0
            self.best_scores = list(scores)
            self.best_weights = {
                name: tensor.detach().cpu().clone() for name, tensor in get_weights().items()
            }
            return
        self.waited += 1
        if self.waited >= patience:
            self.stopped_because = f"no improvement in {self.waited} validations"

    def to_state(
        self, tensors: Mapping[str, torch.Tensor], fingerprint: Mapping[str, Any]
    ) -> TrainingState:
        """Return a state with the current weights, the optimizer tensors and this progress."""
        best = {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        progress = {each.name: getattr(self, each.name) for each in fields(self)}
        del progress["best_weights"]
        return TrainingState(self.step, {**tensors, **best}, fingerprint, progress)


def save_state(folder: Path, state: TrainingState) -> Path:
    """Write a state, then delete all but the newest two.

    Args:
        folder: Folder of the states; created if missing.
        state: State to write.

    Returns:
        The folder of this state.

    Raises:
        NonFiniteLossError: A tensor contains NaN or infinity; nothing is written.
        RunFolderError: The disk is full or the folder is not writable.
    """
    require_finite(state.tensors, step=state.step)
    path = folder / f"state-{state.step:08d}"
    with replace_folder(path) as draft:
        tensors = {name: tensor.detach().cpu() for name, tensor in state.tensors.items()}
        save_file(_without_aliases(tensors), draft / _TENSORS)
        content = {
            "step": state.step,
            "sha256": content_hash(draft / _TENSORS)[0],
            "fingerprint": dict(state.fingerprint),
            "progress": dict(state.progress),
        }
        (draft / _STATE).write_text(verification.dump(content), encoding="utf-8")
    for old in _newest_first(folder)[_MAX_STATES:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_newest(folder: Path) -> TrainingState | None:
    """Load the newest intact state, or return `None`; damaged states are skipped with a warning."""
    for path in _newest_first(folder):
        try:
            content = verification.parse((path / _STATE).read_text(encoding="utf-8"))
            if content_hash(path / _TENSORS)[0] != content["sha256"]:
                logger.warning("Skipping the damaged training state %s.", path)
                continue
            return TrainingState(
                step=content["step"],
                tensors=load_file(path / _TENSORS),
                fingerprint=content["fingerprint"],
                progress=content["progress"],
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            logger.warning("Skipping the unreadable training state %s: %s", path, error)
    return None


def load_matching(folder: Path, fingerprint: Mapping[str, Any]) -> TrainingState | None:
    """Load the newest intact state of this run.

    Args:
        folder: Folder of the states.
        fingerprint: Settings, model and data of the run that resumes, as JSON values.

    Returns:
        The state, or `None` if there is none.

    Raises:
        StaleStageError: The state belongs to a run with another fingerprint.
    """
    state = load_newest(folder)
    if state is None:
        return None
    # Through JSON, because the saved fingerprint has lists for tuples.
    expected = json.loads(json.dumps(dict(fingerprint)))
    names = {*expected, *state.fingerprint}
    changed = sorted(n for n in names if expected.get(n) != state.fingerprint.get(n))
    if changed:
        raise StaleStageError(
            f"The training state in {folder} belongs to another run: different "
            f"{', '.join(changed)}. Restore the old settings and data, or train from scratch "
            "(--force, or delete the folder)."
        )
    logger.info("Resuming training after %d steps or epochs.", state.step)
    return state


def require_finite(tensors: Mapping[str, torch.Tensor], *, step: int) -> None:
    """Check that tensors contain finite numbers only.

    Raises:
        NonFiniteLossError: A tensor contains NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteLossError(
                f"{name} contains NaN or infinity at step {step}. Lower the learning rate or "
                "train in fp32. Nothing was saved at this step."
            )


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Replace a folder atomically with what the `with` block writes.

    Args:
        path: Folder to create or replace as a whole.

    Yields:
        An empty temporary folder in the same parent, renamed to `path` if the block succeeds.

    Raises:
        RunFolderError: The disk is full or the folder is not writable.
    """
    draft = path.with_name(f".{path.name}.draft")
    replaced = path.with_name(f".{path.name}.replaced")
    with wrap_os_errors(path):
        for leftover in (draft, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        make_private_folder(draft)
        try:
            yield draft
            sync_tree(draft)
            if path.exists():
                path.rename(replaced)
            draft.rename(path)
            sync(path.parent)
        finally:
            for leftover in (draft, replaced):
                shutil.rmtree(leftover, ignore_errors=True)


def find_start(
    folder: Path, fingerprint: Mapping[str, Any], *, resume: bool, is_worker: bool
) -> TrainingState | None:
    """Return the state to resume from, the same on all ranks; rank 0 truncates the log to it.

    Args:
        folder: Folder of the states; rank 0 creates it.
        fingerprint: What the state must have been saved with, see `load_matching`.
        resume: False deletes all states.
        is_worker: Whether this process is a rank other than 0 of a distributed training.

    Raises:
        StaleStageError: The newest intact state has another fingerprint.
    """
    if is_worker:
        _wait_for_ranks()
        return load_newest(folder)
    if not resume and folder.exists():
        shutil.rmtree(folder)
    make_private_folder(folder)
    state = load_matching(folder, fingerprint)
    log = folder / LOG_FILE
    if state is None:
        log.unlink(missing_ok=True)
    else:
        rows = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        # A killed process may have left an incomplete last line.
        rows = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= state.step]
        write_text(log, "".join(f"{row}\n" for row in rows))
    _wait_for_ranks()
    return state


def _wait_for_ranks() -> None:
    """Wait until rank 0 has prepared the folder, if torchrun started all ranks at once."""
    if torch.distributed.is_torchelastic_launched() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(torch.zeros(1))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*"), reverse=True)


def _without_aliases(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share memory with another one, which safetensors does not accept."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        address = tensor.data_ptr()
        result[name] = tensor.clone() if address in seen else tensor.contiguous()
        seen.add(address)
    return result
