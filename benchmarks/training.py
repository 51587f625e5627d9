"""Fine-tuning steps of the recommender by LoRA: samples per second against two baselines."""

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

from benchmarks._bench import Bench, Cost, set_up, settings_of, unique_tokens
from benchmarks._measure import OURS, Way, alternate, apart, growth_of, now, peak_gb
from benchmarks._released import train_released
from benchmarks._strong import train_strong
from mllm_msr.config.settings import TrainSettings
from mllm_msr.models.inputs import Renderer
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import language_layers, load_trainable, trainable_tensors
from mllm_msr.ranker.training.sampler import StepSampler
from mllm_msr.ranker.training.trainer import train

_LORA: Final[dict[str, Any]] = {"rank": 8, "alpha": 16, "dropout": 0.0, "seed": 0}
_RATE: Final = 2e-4


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
    """Compare ways to fine-tune.

    Args:
        shapes: "demo" (the packaged model), "middle" (134 million random weights), "7b"
            (LLaVA-v1.6-mistral's, for a GPU) or "tiny".
        samples: Examples that our way learns from, each once.
        items: Size of the catalogue: every image returns samples / items times.
        device: A torch device; our way takes a GPU where there is one.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Threads on a CPU.
        batch_size: Examples in a step, of our way and of the strong one.
        repeats: Rounds in which all ways run in turn.
        released_samples: Examples that the released way learns from.
        strong_samples: Examples that the strong way learns from.
        growth: Times the work, for time and memory; 0 to leave it out.

    Returns:
        Settings, `ratios` of rates, agreement of the losses, growth.
    """
    with set_up(
        shapes, n_items=items, device=device, dtype=dtype, threads=threads, batch_size=batch_size
    ) as bench:
        result = {
            **settings_of(bench),
            **_compare(
                bench,
                samples=samples,
                n_released=released_samples,
                n_strong=strong_samples,
                repeats=repeats,
            ),
        }
        if growth:
            few = max(samples // 4, 1)
            result["growth"] = growth_of(*(apart(_grown, bench, n) for n in (few, growth * few)))
    return result


def _compare(
    bench: Bench, *, samples: int, n_released: int, n_strong: int, repeats: int
) -> dict[str, Any]:
    examples = bench.work.training_pairs(samples)
    loaded = bench.load()
    cost = Cost.of(bench, loaded)
    renderer = Renderer(loaded.processor, supports_images=True)
    lengths = [len(renderer.render(one.prompt).input_ids) + 1 for one in examples]
    n_tokens = sum(lengths)
    all_batches = _batches(renderer, examples, bench.batch_size)
    n_unique = sum(_unique(renderer, batch) for batch in all_batches)
    batches = all_batches[: max(n_strong // bench.batch_size, 1)]
    model = _adapted(loaded.model).train()
    at_first = {name: weight.clone() for name, weight in trainable_tensors(model).items()}
    autocast = functools.partial(_autocast, bench)
    losses: dict[str, list[float]] = {}

    def released() -> int:
        part = examples[:n_released]
        train_released(model, loaded, part, rate=_RATE, autocast=autocast)
        return sum(lengths[:n_released])

    def strong() -> int:
        load_trainable(model, at_first)
        losses["strong"] = train_strong(model, loaded, batches, rate=_RATE, autocast=autocast)
        return n_tokens * sum(map(len, batches)) // samples

    clock = _Clock(bench.device)

    def ours() -> int:
        losses[OURS] = _train(bench, examples, clock)
        return n_tokens

    ways = {
        "released": Way(released, n_released),
        "strong": Way(strong, sum(map(len, batches))),
        OURS: Way(ours, samples, clock=clock),
    }
    for way in ways.values():
        way.run()
    common = min(len(losses["strong"]), len(losses[OURS]))
    pairs = list(zip(losses["strong"][:common], losses[OURS][:common], strict=True))
    return {
        "samples_per_image": round(samples / len(bench.work.items), 1),
        "prompt_tokens": n_tokens,
        "unique_tokens": n_unique,
        "image_tokens": cost.image_tokens,
        "largest_difference": max(abs(a - b) for a, b in pairs),
        **alternate(
            ways,
            repeats=repeats,
            device=bench.device,
            dtype=bench.dtype,
            # Frozen weights: the forward pass, and the gradient of what goes through them.
            flops=2 * n_unique * cost.token + len(bench.work.items) * cost.image,
        ),
    }


def _adapted(model: torch.nn.Module) -> torch.nn.Module:
    """The baselines' model: LoRA as PEFT has it, with the initial matrices of our trainer."""
    config = peft.LoraConfig(
        r=_LORA["rank"],
        lora_alpha=_LORA["alpha"],
        lora_dropout=_LORA["dropout"],
        target_modules=language_layers(model),
    )
    torch.manual_seed(_LORA["seed"])
    wrapped: torch.nn.Module = peft.get_peft_model(model, config)
    return wrapped


class _Clock:
    """Seconds of the last training loop, without loading before and saving after it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seconds = 0.0

    @contextlib.contextmanager
    def show(self, n_steps: int, done: int) -> Iterator[Callable[[int], None]]:
        """Stands where progress is shown."""
        del n_steps, done
        start = now(self._device)
        yield lambda _: None
        self.seconds = now(self._device) - start


def _train(bench: Bench, examples: Sequence[Example], clock: _Clock) -> list[float]:
    """Our trainer, once over the examples; the loss of each step."""
    settings = TrainSettings(
        **_LORA,
        learning_rate=_RATE,
        batch_size=bench.batch_size,
        epochs=1,
        warmup=0.0,
        scheduler="constant",
        precision="bf16" if bench.dtype == "bfloat16" else "fp32",
        checkpoint_every=10**9,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            examples,
            [],
            checkpoint=bench.checkpoint,
            output=Path(folder),
            settings=settings,
            show=clock.show,
        )
        log = next(Path(folder).rglob("log.jsonl")).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _batches(
    renderer: Renderer, examples: Sequence[Example], batch_size: int
) -> list[list[Example]]:
    """The batches that our trainer makes of some examples, for both to learn alike."""
    collator = Collator(renderer, examples)
    n_steps = -(-len(examples) // batch_size)
    sampler = StepSampler(
        collator.lengths(),
        batch_size,
        n_steps=n_steps,
        seed=_LORA["seed"],
        image_groups=collator.image_groups(),
    )
    return [[examples[i] for i in sampler.indices(step)] for step in range(n_steps)]


def _unique(renderer: Renderer, batch: Sequence[Example]) -> int:
    """Tokens of a batch, answers left out, where no beginning is read twice."""
    return unique_tokens([renderer.render(example.prompt) for example in batch])[0]


def _autocast(bench: Bench) -> contextlib.AbstractContextManager[Any]:
    device = bench.device.partition(":")[0]
    return torch.autocast(device, torch.bfloat16, enabled=bench.dtype == "bfloat16")


def _grown(bench: Bench, samples: int) -> dict[str, float]:
    """Our way's time and memory for so many samples, in a process of its own."""
    torch.set_num_threads(bench.threads)
    clock = _Clock(bench.device)
    _train(bench, bench.work.training_pairs(samples), clock)
    return {"units": samples, "seconds": clock.seconds, "peak_gb": peak_gb(bench.device)}
