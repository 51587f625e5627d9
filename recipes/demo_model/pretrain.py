"""The training recipe of the packaged model: `python -m recipes.demo_model.pretrain`.

One loop over a curriculum of generic skills (`batches.CURRICULUM`). Hidden matrices are trained
by Muon, everything else by AdamW, under a schedule of the learning rate in two parts: warm-up,
constant, linear decay; then, for the last skill, a lower start and another decay. A run can be
stopped at any moment and continued by the same command; `--export` writes the running average of
the weights as standard Hugging Face files.
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
    start_forms_alike,
)
from recipes.demo_model.corpus import FAMILIES, Source
from recipes.demo_model.learner import Learner
from recipes.demo_model.pool import CoverPool, open_pool
from recipes.demo_model.probes import probe, probe_batches

logger = logging.getLogger(__name__)

_WARM_UP: Final = 50
_DECAY_SHARE: Final = 0.4
# The second part is as long as the curriculum's last row of 1,000 steps in 6,000.
_SECOND_SHARE: Final = 1 / 6
_SECOND_START: Final = 0.4
# Families in one step. With one alone, and at twice the rate, repeating was unlearnt while
# comparing was learnt; which of the two did it was not isolated.
_N_PARTS: Final = 3
_AVERAGE_DECAY: Final = 0.995


class Run:
    """A training run in a folder: model, optimisers, data, step.

    Args:
        output: Folder of the run; checkpoints, tokenizer and log lie in it.
        pool_folder: Folder of the drawn covers.
        n_steps: Length of the schedule.
        n_tokens: Tokens per batch, about.
        n_covers: Number of covers to draw for training.
        n_unseen: Number of covers to draw for the probes.
        n_tokenizer: Examples of each family that the tokenizer is trained on.
        learning_rate: Peak rate of AdamW.
        matrix_rate: Peak rate of Muon.
        device: "cpu" or "cuda".
        seed: Seed of weights and batches.
        workers: Processes that draw covers.
        shape: Arguments of `make_config` that differ from its defaults.
    """

    def __init__(
        self,
        output: Path,
        *,
        pool_folder: Path,
        n_steps: int,
        n_tokens: int = 3072,
        n_covers: int = 20_000,
        n_unseen: int = 1_000,
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
                needed=f"a seed in {PRETRAINING_SEEDS}",
                received=str(seed),
                remedy="choose another; the rest is kept for worlds that are shown or measured",
            )
        self.output, self.n_steps, self.n_tokens, self.seed = output, n_steps, n_tokens, seed
        self.device = torch.device(device)
        self.step = 0
        shape = dict(shape or {})
        size = shape.get("image_size", 96)
        self.pool = open_pool(pool_folder, n_covers=n_covers, size=size, seed=seed, workers=workers)
        self.covers = self.pool.values()
        unseen = open_pool(pool_folder, n_covers=n_unseen, size=size, seed=MEASURE_SEEDS.start)
        self.tokenizer = open_tokenizer(
            output / "tokenizer", self.pool, seed=seed, n_examples=n_tokenizer
        )
        config = make_config(vocabulary=len(self.tokenizer), **shape)
        model = make_model(config, seed=seed)
        start_forms_alike(model, self.tokenizer, [v for slot in SLOTS for v in slot.values])
        self.learner = Learner(model).to(self.device)
        self.probes = probe_batches(unseen, self.tokenizer)
        self.average = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.optimisers, self.rates = make_optimisers(
            self.learner, learning_rate=learning_rate, matrix_rate=matrix_rate
        )

    def resume(self) -> None:
        """Continue from the newest checkpoint, where there is one."""
        place = training_state.newest(self.output)
        if place is not None:
            facts = training_state.load(
                place, module=self.learner, average=self.average, optimisers=self.optimisers
            )
            self.step = int(facts["step"])
            logger.info("resumed at step %d", self.step)

    def train_step(self) -> tuple[list[tuple[str, float]], int]:
        """One step over parts of several families: each one's loss, and the number of tokens."""
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
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.rates[name] * schedule(self.step, n_steps=self.n_steps)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return losses, n_tokens

    def _loss(self, batch: batches.Batch) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss: Tensor = self.learner(batch.to(self.device))[0]
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                needed="a finite loss",
                received=f"{loss.item()} at step {self.step}",
                remedy="resume with a lower learning rate",
            )
        return loss

    def _update_average(self) -> None:
        decay = min(_AVERAGE_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for name, tensor in self.learner.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - decay)

    def probe(self) -> dict[str, float]:
        """Accuracies of the running average on unseen material."""
        mine = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.learner.load_state_dict(self.average)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            found = probe(self.learner, [b.to(self.device) for b in self.probes], self.tokenizer)
        self.learner.load_state_dict(mine)
        return found

    def save(self) -> Path:
        """Write a checkpoint."""
        return training_state.save(
            self.output, self.step, module=self.learner, average=self.average,
            optimisers=self.optimisers, facts={"seed": self.seed, "n_steps": self.n_steps},
        )  # fmt: skip

    def export(self, folder: Path) -> None:
        """Write the averaged model in bfloat16 as Hugging Face files."""
        mine = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.learner.load_state_dict(self.average)
        model: Any = self.learner.model
        model.to(torch.bfloat16).save_pretrained(folder)
        make_processor(self.tokenizer, model.config).save_pretrained(folder)
        model.to(torch.float32)
        self.learner.load_state_dict(mine)


def schedule(step: int, *, n_steps: int) -> float:
    """Factor of the learning rate: warm-up, constant, decay to zero; a lower start, decay again."""
    first = round(n_steps * (1 - _SECOND_SHARE))
    if step >= first:
        return _SECOND_START * (n_steps - step) / max(1, n_steps - first)
    decay = (first - step) / max(1.0, _DECAY_SHARE * first)
    return float(max(0.0, min(1.0, (step + 1) / _WARM_UP, decay)))


def make_optimisers(
    learner: Learner, *, learning_rate: float, matrix_rate: float
) -> tuple[dict[str, torch.optim.Optimizer], dict[str, float]]:
    """Muon for the hidden matrices, AdamW for the rest, and the peak rate of each."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in learner.named_parameters():
        hidden = ".layers." in name and parameter.ndim == 2
        (matrices if hidden else others).append(parameter)
    optimisers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(
            others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        ),
        "muon": torch.optim.Muon(
            matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="original"
        ),
    }
    return optimisers, {"adamw": learning_rate, "muon": matrix_rate}


def open_tokenizer(folder: Path, pool: CoverPool, *, seed: int, n_examples: int) -> Any:
    """The run's tokenizer, trained on examples of every family where it does not exist."""
    if not folder.exists():
        source = Source(np.random.default_rng([seed, 23]), pool.values(), outside=False)
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
    """Train until the schedule's end or the time's, logging to `log.jsonl`."""
    started = time.monotonic()
    losses: dict[str, list[float]] = {}
    n_tokens, since = 0, time.monotonic()
    with (run.output / "log.jsonl").open("a", encoding="utf-8") as log:
        while run.step < run.n_steps and time.monotonic() - started < 60 * minutes:
            found, count = run.train_step()
            for family, loss in found:
                losses.setdefault(family, []).append(loss)
            n_tokens += count
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
    """Train the packaged model, or export a run's newest checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pool", type=Path, help="folder of drawn covers [OUTPUT/pool]")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many minutes")
    parser.add_argument("--steps", type=int, default=6_000, help="length of the schedule")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per batch")
    parser.add_argument("--covers", type=int, default=20_000, help="covers to draw")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--matrix-rate", type=float, default=1e-2)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument("--export", type=Path, help="write the newest checkpoint here and stop")
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
