"""Training of the projector: images to texts, with a frozen vision tower and language model.

This is the first stage of LLaVA (Liu et al. 2023), which starts from the words of the answers here
(`words.py`). It shares the checkpoint format, the order of the data and the loss with fine-tuning,
but not its Lightning module: one device is enough for a projector, and the vision tower never runs
in the loop. A killed run resumes from its last state, to the same weights as an uninterrupted run.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mllm_msr.config.align_settings import AlignSettings
from mllm_msr.errors import DataError, NonFiniteLossError
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.processor_options import DEFAULT_OPTIONS, ProcessorOptions
from mllm_msr.models.projector import find_projector
from mllm_msr.ranker.alignment.examples import AlignmentExample, examples_digest, render_examples
from mllm_msr.ranker.alignment.features import project, write_features
from mllm_msr.ranker.alignment.words import fit_words
from mllm_msr.ranker.training.checkpoint import (
    Progress,
    TrainingState,
    load_matching,
    require_finite,
    save_state,
)
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.ranker.training.loss import example_losses
from mllm_msr.ranker.training.sampler import StepSampler, learning_rate_factor
from mllm_msr.storage.atomic import make_private_folder

PROJECTOR_FILE: Final = "projector.safetensors"

_STATES: Final = "states"
_FEATURES: Final = "features.npy"
_WARMUP: Final = 0.03
# Steps over which the loss is averaged for the result.
_AVERAGED: Final = 20


@dataclass(frozen=True, slots=True)
class AlignmentSummary:
    """Result of an alignment.

    Attributes:
        images: Number of images.
        examples: Number of examples.
        steps: Optimizer steps done.
        first_loss: Mean loss of the first 20 steps, in nats per token; of the first half if there
            are fewer than 40.
        last_loss: The same for the last steps.
        seconds: Time in the training loop, excluding interruptions.
    """

    images: int
    examples: int
    steps: int
    first_loss: float
    last_loss: float
    seconds: float


def align(
    examples: Sequence[AlignmentExample],
    *,
    checkpoint: str,
    folder: Path,
    settings: AlignSettings,
    revision: str | None = None,
    projector: Path | None = None,
    options: ProcessorOptions = DEFAULT_OPTIONS,
    resume: bool = True,
    show_images: TrainingProgress = hide_progress,
    show: TrainingProgress = hide_progress,
) -> AlignmentSummary:
    """Train the projector of a checkpoint and write it to `PROJECTOR_FILE` in a folder.

    Args:
        examples: Images and texts.
        checkpoint: Folder or hub id of the model.
        folder: Folder for the projector, and for the states until the training is done.
        settings: Training settings.
        revision: Branch, tag or commit on the hub.
        projector: Weights to start from; those of the checkpoint if None.
        options: How images are prepared, and variables of the chat template.
        resume: Resume from the newest intact state; False trains from scratch.
        show_images: Shows the progress of encoding images.
        show: Shows the progress of the training.

    Raises:
        DataError: There are no examples.
        BackendError: The checkpoint cannot be loaded, or has no projector of LLaVA's kind.
        StaleStageError: The saved state has other settings, another model or other examples.
        NonFiniteLossError: The loss became NaN or infinite; the last state is intact.
    """
    if not examples:
        raise DataError(
            "There is nothing to align: no item has both a readable image and a title or text. Add "
            "images, or set align.enabled=false."
        )
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    make_private_folder(folder)
    loaded = load_model(
        checkpoint,
        revision=revision,
        projector=projector,
        options=options,
        dtype="auto" if torch.cuda.is_available() else "bfloat16",
    )
    run = _Alignment(loaded, examples, folder, settings)
    run.open_features(show_images)
    summary = run.train(show)
    shutil.rmtree(folder / _STATES, ignore_errors=True)
    (folder / _FEATURES).unlink(missing_ok=True)
    return summary


class _Alignment:
    """One training of a projector, with its model, examples and features."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        examples: Sequence[AlignmentExample],
        folder: Path,
        settings: AlignSettings,
    ) -> None:
        self._model = loaded.model.requires_grad_(False)
        self._renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
        end_id = _end_id(self._model, self._renderer.tokenizer)
        self._rows: Sequence[Rendered] = render_examples(
            examples, self._renderer, end_id=end_id, max_tokens=settings.max_answer_tokens
        )
        self._folder = folder
        self._settings = settings
        self._fingerprint: Mapping[str, Any] = {
            "model": loaded.fingerprint,
            "examples": examples_digest(examples),
            **settings.fingerprint(),
        }
        size = min(settings.batch_size, len(examples))
        n_steps = max(1, math.ceil(len(examples) * settings.epochs / size))
        self._sampler = StepSampler(
            [len(row.input_ids) + len(row.answer_ids) for row in self._rows],
            size,
            n_steps=min(n_steps, settings.max_steps or n_steps),
            seed=settings.seed,
        )

    def open_features(self, show: TrainingProgress) -> None:
        """Encode the images, or open the features that an interrupted run has stored."""
        first: dict[Path, Rendered] = {}
        for row in self._rows:
            first.setdefault(row.images[0], row)
        self._image_rows = {path: number for number, path in enumerate(first)}
        with show(len(first), 0) as advance:
            self._features = write_features(
                self._model,
                self._renderer,
                list(first.values()),
                self._folder / _FEATURES,
                advance=advance,
            )

    def train(self, show: TrainingProgress) -> AlignmentSummary:
        """Run the remaining steps and write the projector."""
        settings, n_steps = self._settings, self._sampler.n_steps
        # In full precision, because the updates are small.
        projector = find_projector(self._model).float().requires_grad_(True)
        optimizer = torch.optim.AdamW(
            projector.parameters(), lr=settings.learning_rate, weight_decay=0.0
        )
        start = load_matching(self._folder / _STATES, self._fingerprint)
        progress = Progress.from_state(start)
        losses = _restore(projector, optimizer, start)
        if start is None:
            self._fit_words(projector)
        began = time.monotonic() - progress.seconds
        with show(n_steps, progress.step) as advance:
            while progress.step < n_steps:
                factor = learning_rate_factor(
                    progress.step, n_steps=n_steps, warmup=_WARMUP, scheduler="cosine"
                )
                optimizer.param_groups[0]["lr"] = settings.learning_rate * factor
                losses.append(self._step(projector, optimizer, progress.step))
                progress.step += 1
                progress.seconds = time.monotonic() - began
                if progress.step % settings.checkpoint_every == 0:
                    self._save(projector, optimizer, progress, losses)
                advance(1)
        weights = {name: tensor.half() for name, tensor in projector.state_dict().items()}
        require_finite(weights, step=progress.step)
        save_file(weights, self._folder / PROJECTOR_FILE)
        averaged = min(_AVERAGED, max(n_steps // 2, 1))
        return AlignmentSummary(
            images=len(self._features),
            examples=len(self._rows),
            steps=progress.step,
            first_loss=float(np.mean(losses[:averaged])),
            last_loss=float(np.mean(losses[-averaged:])),
            seconds=progress.seconds,
        )

    def _fit_words(self, projector: nn.Module) -> None:
        """Bring the outputs of the projector near the embeddings of the answers' words."""
        words: list[Counter[int]] = [Counter() for _ in self._image_rows]
        for row in self._rows:
            words[self._image_rows[row.images[0]]].update(row.answer_ids)
        fit_words(
            projector,
            self._features,
            words,
            self._model.get_input_embeddings().weight,
            epochs=self._settings.word_epochs,
            seed=self._settings.seed,
        )

    def _step(self, projector: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Do an optimizer step and return its loss."""
        rows = [self._rows[index] for index in self._sampler.indices(step)]
        inputs = self._renderer.collate(rows, pad_side="right", with_answers=True)
        like = self._model.get_input_embeddings().weight
        moved = {k: v.to(like.device) for k, v in inputs.items() if not k.startswith("pixel_")}
        labels = moved.pop("labels")
        features = self._features[[self._image_rows[row.images[0]] for row in rows]]
        moved |= project(projector, features, like=like)
        loss = example_losses(self._model, moved, labels).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"The loss is {value} at step {step} of the alignment. Lower "
                "align.learning_rate. The last saved state is intact."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        return value

    def _save(
        self,
        projector: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        losses: Sequence[float],
    ) -> None:
        tensors = {f"model.{name}": t for name, t in projector.state_dict().items()}
        for index, kinds in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{kind}": t for kind, t in kinds.items()}
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        save_state(self._folder / _STATES, progress.to_state(tensors, self._fingerprint))


def _restore(
    projector: nn.Module, optimizer: torch.optim.Optimizer, start: TrainingState | None
) -> list[float]:
    """Load weights and optimizer of a state, and return the losses of its steps."""
    if start is None:
        return []
    projector.load_state_dict(start.part("model."))
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in start.part("optimizer.").items():
        index, kind = name.split(".", 1)
        states.setdefault(int(index), {})[kind] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    losses: list[float] = start.tensors["losses"].tolist()
    return losses


def _end_id(model: Any, tokenizer: Any) -> int:
    """Return the token that ends the model's answers."""
    found = getattr(model.generation_config, "eos_token_id", None) or tokenizer.eos_token_id
    return int(found[0] if isinstance(found, list) else found)
