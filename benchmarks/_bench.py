"""The bench on which the speed benchmarks lie: a checkpoint, its baselines and our backend.

A benchmark says what the work is; this file loads what does it.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
import transformers

from benchmarks import _shapes
from benchmarks._jobs import Work
from benchmarks._released import Released
from benchmarks._strong import Strong
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import Attention, LoadedCheckpoint, Precision, load_model

Dtype = Literal["float32", "bfloat16"]
CHOICES: Final = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all ways of one benchmark share.

    Attributes:
        checkpoint: Folder of the model.
        shapes: Its name.
        work: The catalogue.
        device: Where models run.
        dtype: Their precision.
        threads: Threads on a CPU.
        batch_size: Prompts in a batch, of our way and of the strong one.
    """

    checkpoint: str
    shapes: str
    work: Work
    device: str
    dtype: Precision
    threads: int
    batch_size: int

    def load(self) -> LoadedCheckpoint:
        """The model for the baselines, with the attention that is fastest for them."""
        return load_model(
            self.checkpoint, dtype=self.dtype, device=self.device, attention=self.attention
        )

    @property
    def attention(self) -> Attention:
        """Fused attention of one new token is slow in bfloat16 on a CPU."""
        return "eager" if (self.device, self.dtype) == ("cpu", "bfloat16") else "auto"

    def baselines(self, loaded: LoadedCheckpoint, *, at_once: int = 6) -> tuple[Released, Strong]:
        """The released way and the strong one."""
        renderer = Renderer(loaded.processor, supports_images=True)
        prompt = self.work.training_pairs(1)[0].prompt
        ids = renderer.choice_ids(renderer.render(prompt).input_ids, CHOICES)
        return (
            Released(loaded, answer_ids=ids, at_once=at_once),
            Strong(loaded, answer_ids=ids, batch_size=self.batch_size),
        )

    def ours(self) -> DemoBackend | HuggingFaceBackend:
        """Our backend."""
        options: dict[str, Any] = {
            "device": self.device,
            "batch_size": self.batch_size,
            "threads": self.threads,
        }
        if self.shapes == "demo":
            precision: Dtype = "bfloat16" if self.dtype == "bfloat16" else "float32"
            return DemoBackend(precision=precision, **options)
        return HuggingFaceBackend(
            self.checkpoint,
            dtype=self.dtype,
            attention=self.attention,
            speculative_tokens=0,  # random weights repeat themselves, which is guessed too easily
            **options,
        )


@contextlib.contextmanager
def set_up(
    shapes: str, *, n_items: int, device: str, dtype: str, threads: int, batch_size: int
) -> Iterator[Bench]:
    """Draw the covers and the weights of a bench into a temporary folder."""
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    precision: Precision = "bfloat16" if dtype == "bfloat16" else "float32"
    with tempfile.TemporaryDirectory() as folder:
        covers = Path(folder) / "covers"
        covers.mkdir()
        work = Work.make(covers, n_items)
        checkpoint = _shapes.checkpoint(
            shapes, Path(folder) / shapes, device=device, dtype=dtype, texts=work.texts()
        )
        yield Bench(checkpoint, shapes, work, device, precision, threads, batch_size)


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of a model, attention left out.

    Attributes:
        token: Of the decoder, for each token read.
        output: Of the output layer, for each token written.
        image: Of tower and projector, for each image.
        image_tokens: Tokens that a image takes.
    """

    token: float
    output: float
    image: float
    image_tokens: int

    @classmethod
    def of(cls, bench: Bench, loaded: LoadedCheckpoint) -> Cost:
        """Two for each weight that a token, or a patch of a image, meets."""
        model = loaded.model
        renderer = Renderer(loaded.processor, supports_images=True)
        rendered = renderer.render(bench.work.training_pairs(1)[0].prompt)
        n_tokens = rendered.input_ids.count(model.config.image_token_id)
        decoder, output = _linear(model.get_decoder()), model.lm_head.weight.numel()
        tower = _linear(model) - decoder - output
        return cls(2.0 * decoder, 2.0 * output, 2.0 * tower * n_tokens, n_tokens)


def _linear(module: torch.nn.Module) -> int:
    layers = (part for part in module.modules() if isinstance(part, torch.nn.Linear))
    return sum(layer.weight.numel() for layer in layers)


def unique_tokens(prompts: Sequence[Rendered]) -> tuple[int, int]:
    """Tokens that must be read where no beginning is read twice, and different images."""
    total = 0
    before: tuple[object, ...] = ()
    for prompt in sorted(prompts, key=lambda one: (one.images, one.input_ids)):
        whole = (*prompt.images, *prompt.input_ids)
        pairs = zip(before, whole, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        total += len(whole) - max(common, len(prompt.images))
        before = whole
    return total, len({image for prompt in prompts for image in prompt.images})


def settings_of(bench: Bench) -> dict[str, object]:
    """What a result says of its bench."""
    return {
        "shapes": bench.shapes,
        "device": bench.device,
        "dtype": bench.dtype,
        "threads": bench.threads,
        "batch_size": bench.batch_size,
    }
