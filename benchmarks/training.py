"""LoRA fine-tuning of the ranker: samples per second, compared with two baselines."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import peft
import torch

from benchmarks._measure import (
    OURS,
    Implementation,
    growth_between,
    in_new_process,
    peak_gb,
    run_in_turn,
    seconds_used,
)
from benchmarks._released import train_released
from benchmarks._setup import Cost, Setup, open_setup, unique_tokens
from benchmarks._strong import train_strong
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.models.inputs import Renderer
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.training.checkpoint import LOG_FILE
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import language_layers, load_trainable, trainable_tensors
from mllm_msr.ranker.training.sampler import StepSampler
from mllm_msr.ranker.training.trainer import train
from mllm_msr.storage import layout

_LORA: Final[dict[str, Any]] = {"rank": 8, "alpha": 16, "dropout": 0.0, "seed": 0}
_LEARNING_RATE: Final = 2e-4


def run(
    *,
    shapes: str = "demo",
    samples: int = 256,
    items: int = 30,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 1,
    batch_size: int = 32,
    repeats: int = 5,
    released_samples: int = 8,
    strong_samples: int = 96,
    growth: int = 16,
) -> dict[str, Any]:
    """Compare implementations of fine-tuning.

    Args:
        shapes: "demo" (the demo model), "smollm" (the pretrained model of the extra `small`), or
            random weights: "middle" (134 million), "7b" (shapes of LLaVA-v1.6-mistral, for a GPU),
            "smolvlm2-256m", "smolvlm2-500m", "qwen3-vl-2b", "tiny" or "qwen3-vl-tiny".
        samples: Number of examples of our implementation, which trains for one epoch.
        items: Number of items in the catalog; each image occurs samples / items times.
        device: A torch device; our trainer uses a GPU if there is one.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Number of threads on a CPU.
        batch_size: Batch size of our implementation and of the strong one.
        repeats: Number of repeats; each runs all implementations alternately.
        released_samples: Number of examples of the released implementation.
        strong_samples: Number of examples of the strong implementation.
        growth: Factor of the work for the growth of time and memory; 0 to omit the measurement.

    Returns:
        Settings, `ratios` of rates, agreement of the losses, and growth.
    """
    with open_setup(
        shapes, n_items=items, device=device, dtype=dtype, threads=threads, batch_size=batch_size
    ) as setup:
        result = {
            **setup.describe(),
            **_compare(
                setup,
                samples=samples,
                n_released=released_samples,
                n_strong=strong_samples,
                repeats=repeats,
            ),
        }
        if growth:
            few = max(samples // 4, 1)
            measured = (in_new_process(_measure_ours, setup, n) for n in (few, growth * few))
            result["growth"] = growth_between(*measured)
    return result


def _compare(
    setup: Setup, *, samples: int, n_released: int, n_strong: int, repeats: int
) -> dict[str, Any]:
    examples = setup.workload.training_pairs(samples)
    loaded = setup.load()
    cost = Cost.measure(setup, loaded)
    renderer = Renderer(loaded.processor, supports_images=True)
    lengths = [len(renderer.render(one.prompt).input_ids) + 1 for one in examples]
    all_batches = _batches(renderer, examples, setup.batch_size)
    n_unique = sum(_unique_prompt_tokens(renderer, batch) for batch in all_batches)
    batches = all_batches[: max(n_strong // setup.batch_size, 1)]
    model = _add_peft_lora(loaded.model).train()
    initial = {name: weight.clone() for name, weight in trainable_tensors(model).items()}
    autocast = functools.partial(_autocast, setup)
    losses: dict[str, list[float]] = {}

    def released() -> int:
        part = examples[:n_released]
        train_released(model, loaded, part, learning_rate=_LEARNING_RATE, autocast=autocast)
        return sum(lengths[:n_released])

    def strong() -> int:
        load_trainable(model, initial)
        losses["strong"] = train_strong(
            model, loaded, batches, learning_rate=_LEARNING_RATE, autocast=autocast
        )
        return sum(lengths) * sum(map(len, batches)) // samples

    clock = _TrainingLoopClock(setup.device)

    def ours() -> int:
        losses[OURS] = _train(setup, examples, clock)
        return sum(lengths)

    implementations = {
        "released": Implementation(released, n_released),
        "strong": Implementation(strong, sum(map(len, batches))),
        OURS: Implementation(ours, samples, clock=clock),
    }
    for implementation in implementations.values():
        implementation.run()  # warm-up
    # The strong implementation takes fewer steps.
    pairs = zip(losses["strong"], losses[OURS], strict=False)
    return {
        "samples_per_image": round(samples / len(setup.workload.items), 1),
        "prompt_tokens": sum(lengths),
        "unique_tokens": n_unique,
        "image_tokens": cost.image_tokens,
        "largest_difference": max(abs(a - b) for a, b in pairs),
        **run_in_turn(
            implementations,
            repeats=repeats,
            device=setup.device,
            dtype=setup.dtype,
            # Weights are frozen: a forward pass, and a backward pass to the inputs only.
            flops=2 * n_unique * cost.token + len(setup.workload.items) * cost.image,
        ),
    }


def _add_peft_lora(model: torch.nn.Module) -> torch.nn.Module:
    """Add PEFT's LoRA layers with the same initial matrices as our trainer."""
    config = peft.LoraConfig(
        r=_LORA["rank"],
        lora_alpha=_LORA["alpha"],
        lora_dropout=_LORA["dropout"],
        target_modules=language_layers(model),
    )
    torch.manual_seed(_LORA["seed"])
    wrapped: torch.nn.Module = peft.get_peft_model(model, config)
    return wrapped


class _TrainingLoopClock:
    """Clock of the training loop, without loading and saving."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seconds = 0.0

    @contextlib.contextmanager
    def show(self, n_steps: int, n_done: int, part: str = "") -> Iterator[Callable[[int], None]]:
        """Time the training loop; passed to the trainer as its progress display."""
        del n_steps, n_done
        start = seconds_used(self._device)
        yield lambda _: None
        if not part:
            self.seconds = seconds_used(self._device) - start


def _train(setup: Setup, examples: Sequence[Example], clock: _TrainingLoopClock) -> list[float]:
    """Run our trainer for one epoch and return the loss of each step."""
    settings = TrainSettings(
        **_LORA,
        learning_rate=_LEARNING_RATE,
        batch_size=setup.batch_size,
        epochs=1,
        warmup=0.0,
        scheduler="constant",
        precision="bf16" if setup.dtype == "bfloat16" else "fp32",
        checkpoint_every=10**9,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            examples,
            [],
            checkpoint=setup.checkpoint,
            output=Path(folder),
            settings=settings,
            show=clock.show,
        )
        log = Path(folder, layout.TRAINING, LOG_FILE).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _batches(
    renderer: Renderer, examples: Sequence[Example], batch_size: int
) -> list[list[Example]]:
    """Return the batches of our trainer, so that the strong implementation has the same."""
    collator = Collator(renderer, examples)
    n_steps = -(-len(examples) // batch_size)
    sampler = StepSampler(
        collator.lengths(),
        batch_size,
        n_steps=n_steps,
        seed=_LORA["seed"],
        groups=collator.prefix_groups(),
    )
    return [[examples[index] for index in sampler.indices(step)] for step in range(n_steps)]


def _unique_prompt_tokens(renderer: Renderer, batch: Sequence[Example]) -> int:
    """Count the prompt tokens of a batch, with every shared prefix counted once."""
    return unique_tokens([renderer.render(example.prompt) for example in batch])[0]


def _autocast(setup: Setup) -> contextlib.AbstractContextManager[Any]:
    device = setup.device.partition(":")[0]
    return torch.autocast(device, torch.bfloat16, enabled=setup.dtype == "bfloat16")


def _measure_ours(setup: Setup, samples: int) -> dict[str, float]:
    """Measure time and memory of our implementation; called in a new process."""
    torch.set_num_threads(setup.threads)
    clock = _TrainingLoopClock(setup.device)
    _train(setup, setup.workload.training_pairs(samples), clock)
    return {"units": samples, "seconds": clock.seconds, "peak_gb": peak_gb(setup.device)}
