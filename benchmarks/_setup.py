"""Setup of the speed benchmarks: workload, checkpoint, baselines and our backend."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._checkpoints import PRETRAINED, make_checkpoint
from benchmarks._released import Released
from benchmarks._strong import Strong
from benchmarks._workload import Workload
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.models import cpu_runtime
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.vision_cache import encode_images
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.types import Precision

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings, model and data of one benchmark, shared by all implementations.

    Attributes:
        checkpoint: Folder of the model.
        shapes: Name of the model.
        workload: The catalog.
        device: Device of the models.
        dtype: Data type of the models.
        threads: Number of threads on a CPU.
        batch_size: Batch size of our implementation and of the strong one.
    """

    checkpoint: str
    shapes: str
    workload: Workload
    device: str
    dtype: Precision
    threads: int
    batch_size: int

    def load(self) -> LoadedCheckpoint:
        """Load the model for the baselines with the fastest attention of Transformers."""
        # Fused attention with one query token is slow in bfloat16 on a CPU without a matrix unit; a
        # tower has hundreds.
        is_slow = (self.device, self.dtype) == ("cpu", "bfloat16") and not (
            cpu_runtime.has_matrix_unit()
        )
        loaded = load_model(
            self.checkpoint,
            dtype=self.dtype,
            device=self.device,
            attention="eager" if is_slow else "auto",
        )
        if is_slow:
            loaded.model.set_attn_implementation({"vision_config": "sdpa"})
        return loaded

    def baselines(
        self, loaded: LoadedCheckpoint, *, generation_batch: int = 6
    ) -> tuple[Released, Strong]:
        """Return the released and the strong baseline."""
        renderer = Renderer(loaded.processor, supports_images=True)
        prompt = self.workload.training_pairs(1)[0].prompt
        ids = renderer.choice_ids(renderer.render(prompt).input_ids, CHOICES)
        return (
            Released(loaded, answer_ids=ids, generation_batch=generation_batch),
            Strong(loaded, answer_ids=ids, batch_size=self.batch_size),
        )

    def ours(self) -> DemoBackend | HuggingFaceBackend:
        """Return the backend of this package for the model."""
        options: dict[str, Any] = {
            "device": self.device,
            "batch_size": self.batch_size,
            "threads": self.threads,
        }
        if self.shapes == "demo":
            precision: Dtype = "bfloat16" if self.dtype == "bfloat16" else "float32"
            return DemoBackend(precision=precision, **options)
        if self.shapes != PRETRAINED:
            # Random weights repeat their output, so drafts would be accepted too often.
            options["speculative_tokens"] = 0
        return HuggingFaceBackend(
            self.checkpoint,
            dtype=self.dtype,
            **options,
        )

    def describe(self) -> dict[str, object]:
        """Return the entries of a result that describe the setup."""
        return {
            "shapes": self.shapes,
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "batch_size": self.batch_size,
        }


@contextlib.contextmanager
def open_setup(
    shapes: str, *, n_items: int, device: str, dtype: str, threads: int, batch_size: int
) -> Iterator[Setup]:
    """Create covers and weights in a temporary folder, and yield the setup.

    Args:
        shapes: Name of a model, see `make_checkpoint`.
        n_items: Number of items in the catalog.
        device: Device of the models.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Number of threads on a CPU.
        batch_size: Batch size of our implementation and of the strong one.
    """
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    precision: Precision = "bfloat16" if dtype == "bfloat16" else "float32"
    with tempfile.TemporaryDirectory() as folder:
        covers = Path(folder) / "covers"
        covers.mkdir()
        workload = Workload.make(covers, n_items)
        checkpoint = make_checkpoint(
            shapes, Path(folder) / shapes, device=device, dtype=dtype, texts=workload.texts()
        )
        yield Setup(checkpoint, shapes, workload, device, precision, threads, batch_size)


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of a model, without the decoder's attention.

    Attributes:
        token: Operations of the decoder per input token.
        output: Operations of the output layer per generated token.
        image: Operations of the vision tower and the projector per image.
        image_tokens: Number of tokens per image.
    """

    token: float
    output: float
    image: float
    image_tokens: int

    @classmethod
    def measure(cls, setup: Setup, loaded: LoadedCheckpoint) -> Cost:
        """Count the operations: two per weight of the decoder, and those of a tower's products."""
        model = loaded.model
        renderer = Renderer(loaded.processor, supports_images=True)
        rendered = renderer.render(setup.workload.training_pairs(1)[0].prompt)
        with FlopCounterMode(display=False) as tower:
            encode_images(model, renderer, [rendered])
        decoder, output = _linear_weights(model.get_decoder()), model.lm_head.weight.numel()
        n_tokens = rendered.input_ids.count(model.config.image_token_id)
        return cls(2.0 * decoder, 2.0 * output, float(tower.get_total_flops()), n_tokens)


def _linear_weights(module: torch.nn.Module) -> int:
    """Return the total number of weights in the linear layers."""
    layers = (part for part in module.modules() if isinstance(part, torch.nn.Linear))
    return sum(layer.weight.numel() for layer in layers)


def unique_tokens(prompts: Sequence[Rendered]) -> tuple[int, int]:
    """Count the tokens after merging shared prefixes, and the distinct images."""
    total = 0
    previous: tuple[object, ...] = ()
    for prompt in sorted(prompts, key=lambda one: (one.images, one.input_ids)):
        sequence = (*prompt.images, *prompt.input_ids)
        pairs = zip(previous, sequence, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        total += len(sequence) - max(common, len(prompt.images))
        previous = sequence
    return total, len({image for prompt in prompts for image in prompt.images})
