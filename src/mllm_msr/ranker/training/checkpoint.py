"""The state of an interrupted training run on disk: whole or not at all, and never a pickle.

A state is a folder `state-STEP/` of one safetensors file and one JSON file that holds its hash.
It is written under another name, forced to disk and renamed, so that a process killed at any
instant leaves either the state before or the state after. A damaged newest one is passed over.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mllm_msr.errors import NonFiniteLossError
from mllm_msr.storage.atomic import content_hash, sync, wrap_os_errors

# The trainer's log, one JSON object a line, beside the states.
LOG_FILE: Final = "log.jsonl"

_KEPT: Final = 2
_TENSORS: Final = "tensors.safetensors"
_FACTS: Final = "state.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a run needs to go on as if nothing had happened.

    The order of the data and the dropout masks are functions of the seed and the step, so neither
    stands here.

    Attributes:
        step: Optimiser steps done.
        tensors: Trainable weights ("model.NAME"), the best ones so far ("best.NAME"), and the
            optimiser's ("optimizer.KIND.NAME").
        facts: JSON-able rest: best value and its step, early_stopping_patience, settings, ...
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with a prefix, under their names without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


@dataclass
class Progress:
    """Where a run stands; changed as it goes, saved with every state.

    Attributes:
        step: Optimiser steps done.
        examples_per_step: Examples that each of them saw, on all devices.
        best: Best validation value so far, `None` before the first.
        best_step: The step that reached it.
        waited: Validations since then.
        seconds: Time in the training loop, over all processes that took part.
        stopped_because: Why the run ended, empty while it goes on.
        scaler: State of the loss scaler, empty but for fp16.
        best_weights: The weights at `best_step`, on the CPU.
    """

    step: int = 0
    examples_per_step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    seconds: float = 0.0
    stopped_because: str = ""
    scaler: dict[str, Any] = field(default_factory=dict)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: TrainingState | None) -> Self:
        """Where a saved run stood, or the beginning."""
        if state is None:
            return cls()
        return cls(**state.facts["progress"], best_weights=state.part("best."))

    def facts(self) -> dict[str, Any]:
        """The JSON-able part, for `TrainingState.facts`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        del values["best_weights"]
        return {"progress": values}


def save_state(folder: Path, state: TrainingState) -> Path:
    """Write a state, then drop all but the newest two.

    Args:
        folder: Folder of the states, made where missing.
        state: What to write.

    Returns:
        The state's own folder.

    Raises:
        NonFiniteLossError: A tensor holds NaN or infinity; nothing was written.
        RunFolderError: The disk is full or the folder cannot be written.
    """
    refuse_non_finite(state.tensors, step=state.step)
    final = folder / f"state-{state.step:08d}"
    with draft_folder(final) as draft:
        tensors = {name: tensor.detach().cpu() for name, tensor in state.tensors.items()}
        save_file(_unshared(tensors), draft / _TENSORS)
        sha256, _ = content_hash(draft / _TENSORS)
        stored = {"step": state.step, "sha256": sha256, "facts": dict(state.facts)}
        (draft / _FACTS).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    for old in _newest_first(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_newest(folder: Path) -> TrainingState | None:
    """The newest state that is whole, or `None`; damaged ones are passed over with a warning."""
    for candidate in _newest_first(folder):
        try:
            stored = json.loads((candidate / _FACTS).read_text(encoding="utf-8"))
            if content_hash(candidate / _TENSORS)[0] != stored["sha256"]:
                logger.warning("%s is damaged and is passed over", candidate)
                continue
            tensors = load_file(candidate / _TENSORS)
            return TrainingState(step=stored["step"], tensors=tensors, facts=stored["facts"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            logger.warning("%s cannot be read and is passed over: %s", candidate, error)
    return None


def refuse_non_finite(tensors: Mapping[str, torch.Tensor], *, step: int) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises:
        NonFiniteLossError: One does.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteLossError(
                needed=f"finite numbers at step {step}",
                received=f"NaN or infinity in {name}",
                remedy="lower the learning rate or train in fp32; nothing of this was saved",
            )


@contextmanager
def draft_folder(final: Path) -> Iterator[Path]:
    """Fill a folder under another name; when the block ends normally it takes its final name.

    Args:
        final: The folder's name; one that exists is replaced as a whole.

    Yields:
        An empty folder beside it.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    draft = final.with_name(f".{final.name}.draft")
    retired = final.with_name(f".{final.name}.retired")
    with wrap_os_errors(final):
        for leftover in (draft, retired):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            for path in sorted(draft.rglob("*")):
                sync(path)
            sync(draft)
            if final.exists():
                final.rename(retired)
            draft.rename(final)
            sync(final.parent)
        finally:
            for leftover in (draft, retired):
                shutil.rmtree(leftover, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*"), reverse=True)


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of tensors that share memory with another one, which safetensors refuses."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        address = tensor.data_ptr()
        result[name] = tensor.clone() if address in seen else tensor.contiguous()
        seen.add(address)
    return result
