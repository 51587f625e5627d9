"""Pre-training of the demo model on a curriculum of generic skills (`batches.CURRICULUM`).

Muon trains the hidden matrices and AdamW all other parameters. The learning rate has two phases:
warm-up, a constant rate and linear decay; then, for the last skill, a lower rate that decays again.
Run it from the repository root; it can be interrupted at any time and resumed by the same command:

    python -m recipes.demo_model.pretrain --output build/demo-model --resume

`--export FOLDER` writes the moving average of the newest checkpoint as Hugging Face files, in the
format of the packaged `src/mllm_msr/demo_model/weights`:

    python -m recipes.demo_model.pretrain --output build/demo-model --export build/weights
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from mllm_msr.demo_model.language import NUMBERS
from mllm_msr.demo_model.world import MEASURE_SEEDS, PRETRAINING_SEEDS, SLOTS
from mllm_msr.errors import NonFiniteLossError, UsageError
from mllm_msr.types import TextPart
from recipes.demo_model import batches, training_state
from recipes.demo_model.architecture import (
    make_config,
    make_model,
    make_processor,
    make_tokenizer,
    tie_word_forms,
)
from recipes.demo_model.corpus import FAMILIES, Source
from recipes.demo_model.learner import Learner
from recipes.demo_model.pool import CoverPool, open_pool
from recipes.demo_model.probes import probe, probe_batches

logger = logging.getLogger(__name__)

_WARM_UP_STEPS: Final = 50
_DECAY_SHARE: Final = 0.4  # of the first phase
# The second phase is the last row of the curriculum: 1,000 of 6,000 steps.
_SECOND_PHASE_SHARE: Final = 1 / 6
_SECOND_PHASE_START: Final = 0.4  # of the peak learning rate
# Number of families per step. With one family per step and twice the learning rate, the model
# forgot how to copy while it learned to compare; the two changes were not tested separately.
_N_PARTS: Final = 3
_AVERAGE_DECAY: Final = 0.995


class Run:
    """A training run in a folder: model, optimizers, data and step.

    Args:
        output: Folder of the run, for checkpoints, tokenizer and log.
        pool_folder: Folder of the cover pools.
        n_steps: Number of steps of the learning-rate schedule.
        n_tokens: Approximate number of tokens per step.
        n_covers: Number of covers for training.
        n_held_out: Number of covers for the probes.
        n_tokenizer: Number of examples per family for training the tokenizer.
        learning_rate: Peak learning rate of AdamW.
        matrix_rate: Peak learning rate of Muon.
        device: "cpu" or "cuda".
        seed: Seed of weights and batches, in `world.PRETRAINING_SEEDS`.
        workers: Number of processes that draw covers.
        shape: Arguments of `make_config` that differ from the defaults.

    Raises:
        UsageError: The seed is reserved for demo and measurement worlds.
    """

    def __init__(
        self,
        output: Path,
        *,
        pool_folder: Path,
        n_steps: int,
        n_tokens: int = 3072,
        n_covers: int = 20_000,
        n_held_out: int = 1_000,
        n_tokenizer: int = 1_500,
        learning_rate: float = 1.5e-3,
        matrix_rate: float = 1e-2,
        device: str = "cpu",
        seed: int = PRETRAINING_SEEDS.start,
        workers: int = 1,
        shape: dict[str, int] | None = None,
    ) -> None:
        if seed not in PRETRAINING_SEEDS:
            raise UsageError(
                f"{seed} is not a pre-training seed. Choose one from {PRETRAINING_SEEDS.start} to "
                f"{PRETRAINING_SEEDS.stop - 1}; other seeds are reserved for demo and measurement "
                "worlds."
            )
        self.output, self.n_steps, self.n_tokens, self.seed = output, n_steps, n_tokens, seed
        self.device = torch.device(device)
        self.step = 0
        shape = dict(shape or {})
        size = shape.get("image_size", 96)
        self.pool = open_pool(pool_folder, n_covers=n_covers, size=size, seed=seed, workers=workers)
        self.covers = self.pool.values()
        held_out = open_pool(pool_folder, n_covers=n_held_out, size=size, seed=MEASURE_SEEDS.start)
        self.tokenizer = open_tokenizer(
            output / "tokenizer", self.pool, seed=seed, n_examples=n_tokenizer
        )
        config = make_config(vocabulary=len(self.tokenizer), **shape)
        model = make_model(config, seed=seed)
        tie_word_forms(model, self.tokenizer, [v for slot in SLOTS for v in slot.values])
        self.learner = Learner(model).to(self.device)
        self.probes = probe_batches(held_out, self.tokenizer)
        self.average = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.optimizers, self.rates = make_optimizers(
            self.learner, learning_rate=learning_rate, matrix_rate=matrix_rate
        )

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        state = training_state.load(
            self.output, module=self.learner, average=self.average, optimizers=self.optimizers
        )
        if state is not None:
            self.step = state.step
            logger.info("resumed at step %d", self.step)

    def train_step(self) -> tuple[list[tuple[str, float]], int]:
        """Train one step, which has several parts.

        Returns:
            Family and loss of each part, and the number of tokens.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
        """
        losses: list[tuple[str, float]] = []
        n_tokens = 0
        for part in range(_N_PARTS):
            batch = batches.training_batch(
                self.step, part=part, seed=self.seed, pool=self.pool, covers=self.covers,
                tokenizer=self.tokenizer, n_tokens=self.n_tokens // _N_PARTS,
            )  # fmt: skip
            loss = self._loss(batch)
            (loss / _N_PARTS).backward()  # type: ignore[no-untyped-call]
            losses.append((batch.family, float(loss.detach())))
            n_tokens += batch.input_ids.numel()
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * schedule(self.step, n_steps=self.n_steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return losses, n_tokens

    def _loss(self, batch: batches.Batch) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss: Tensor = self.learner(batch.to(self.device))[0]
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss is {loss.item()} at step {self.step}. "
                "Resume from the last checkpoint with a lower learning rate."
            )
        return loss

    def _update_average(self) -> None:
        decay = min(_AVERAGE_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for name, tensor in self.learner.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - decay)

    def probe(self) -> dict[str, float]:
        """Compute the accuracies of the averaged weights on held-out examples."""
        weights = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.learner.load_state_dict(self.average)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            found = probe(self.learner, [b.to(self.device) for b in self.probes], self.tokenizer)
        self.learner.load_state_dict(weights)
        return found

    def save(self) -> Path:
        """Write a checkpoint and return its folder."""
        return training_state.save(
            self.output, self.step, module=self.learner, average=self.average,
            optimizers=self.optimizers, metadata={"seed": self.seed, "n_steps": self.n_steps},
        )  # fmt: skip

    def export(self, folder: Path) -> None:
        """Write the averaged weights in bfloat16 as Hugging Face files."""
        weights = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.learner.load_state_dict(self.average)
        model: Any = self.learner.model
        model.to(torch.bfloat16).save_pretrained(folder)
        make_processor(self.tokenizer, model.config).save_pretrained(folder)
        model.to(torch.float32)
        self.learner.load_state_dict(weights)


def schedule(step: int, *, n_steps: int) -> float:
    """Return the factor of the learning rate at a step, in [0, 1].

    First phase: warm-up, constant rate, linear decay to zero. Second phase: linear decay to zero
    from a lower rate.
    """
    first = round(n_steps * (1 - _SECOND_PHASE_SHARE))
    if step >= first:
        return _SECOND_PHASE_START * (n_steps - step) / max(1, n_steps - first)
    decay = (first - step) / max(1.0, _DECAY_SHARE * first)
    return float(max(0.0, min(1.0, (step + 1) / _WARM_UP_STEPS, decay)))


def make_optimizers(
    learner: Learner, *, learning_rate: float, matrix_rate: float
) -> tuple[dict[str, torch.optim.Optimizer], dict[str, float]]:
    """Make Muon for the hidden matrices and AdamW for all other parameters.

    Returns:
        The optimizers and their peak learning rates, by name.
    """
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in learner.named_parameters():
        hidden = ".layers." in name and parameter.ndim == 2
        (matrices if hidden else others).append(parameter)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(
            others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        ),
        "muon": torch.optim.Muon(
            matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="original"
        ),
    }
    return optimizers, {"adamw": learning_rate, "muon": matrix_rate}


def open_tokenizer(folder: Path, pool: CoverPool, *, seed: int, n_examples: int) -> Any:
    """Load the tokenizer of a run; if it does not exist, train it on examples of every family."""
    if not folder.exists():
        source = Source(np.random.default_rng([seed, 23]), pool.values(), realistic=False)
        texts: list[str] = []
        for _ in range(n_examples):
            for family in FAMILIES.values():
                example = family(source)
                parts = example.prompt.messages[0].parts
                texts += [part.text for part in parts if isinstance(part, TextPart)]
                texts += example.turns
        answers = ("yes", "no", "first", "second", "nothing", *NUMBERS)
        for word in (*(value for slot in SLOTS for value in slot.values), *answers):
            texts += [f"{word} {word}\n{word.capitalize()} {word.capitalize()}"] * n_examples
        make_tokenizer(texts).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def train(run: Run, *, minutes: float, probe_every: int = 200, save_every: int = 200) -> None:
    """Train until the schedule ends or the time limit is reached, logging to `log.jsonl`.

    Args:
        run: The run.
        minutes: Time limit in minutes.
        probe_every: Steps between two log entries.
        save_every: Steps between two checkpoints.
    """
    started = time.monotonic()
    losses: dict[str, list[float]] = {}
    n_tokens, since = 0, time.monotonic()
    with (run.output / "log.jsonl").open("a", encoding="utf-8") as log:
        while run.step < run.n_steps and time.monotonic() - started < 60 * minutes:
            step_losses, n_step_tokens = run.train_step()
            for family, loss in step_losses:
                losses.setdefault(family, []).append(loss)
            n_tokens += n_step_tokens
            if run.step % probe_every == 0:
                rate = n_tokens / (time.monotonic() - since)
                entry = {
                    "step": run.step, "minutes": round((time.monotonic() - started) / 60, 1),
                    "tokens_per_second": round(rate),
                    "loss": {k: round(float(np.mean(v)), 3) for k, v in sorted(losses.items())},
                    "accuracy": run.probe(),
                }  # fmt: skip
                log.write(json.dumps(entry) + "\n")
                log.flush()
                losses, n_tokens, since = {}, 0, time.monotonic()
            if run.step % save_every == 0:
                run.save()
    run.save()


def main(argv: Sequence[str] | None = None) -> None:
    """Train the demo model, or export the newest checkpoint of a run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pool", type=Path, help="folder of the cover pools [OUTPUT/pool]")
    parser.add_argument("--minutes", type=float, default=1e9, help="time limit in minutes")
    parser.add_argument("--steps", type=int, default=6_000, help="steps of the schedule")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per step")
    parser.add_argument("--covers", type=int, default=20_000, help="number of covers")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="peak rate of AdamW")
    parser.add_argument("--matrix-rate", type=float, default=1e-2, help="peak rate of Muon")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument("--export", type=Path, help="export the newest checkpoint here and stop")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    run = Run(
        args.output, pool_folder=args.pool or args.output / "pool", n_steps=args.steps,
        n_tokens=args.tokens, n_covers=args.covers, learning_rate=args.learning_rate,
        matrix_rate=args.matrix_rate, device=args.device, workers=args.threads,
    )  # fmt: skip
    if args.resume or args.export:
        run.resume()
    if args.export:
        run.export(args.export)
        return
    train(run, minutes=args.minutes)


if __name__ == "__main__":
    main()
