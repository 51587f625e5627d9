"""Trial of a model that runs in this process: `mllm-msr doctor model.checkpoint=...`.

Loads the model, scores a prompt with an image, writes an answer, compares a batch with a single
prompt, and takes one LoRA step. Each finding says what a run would do with this model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from mllm_msr.backends._local import LocalBackend
from mllm_msr.errors import MllmMsrError, TrainingError, first_line
from mllm_msr.interfaces import Backend
from mllm_msr.models.families import is_tested
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.models.optimizations import describe_optimizations
from mllm_msr.models.self_check import MODEL_ERRORS, find_batch_problem
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.pipeline.doctor import Finding
from mllm_msr.ranker.examples import CHOICES, Example, build_prompt
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import adapted_layers, add_lora
from mllm_msr.ranker.training.loss import example_losses
from mllm_msr.types import ImagePart, Item, Message, Prompt, TextPart

_IMAGE_SIZE: Final = (720, 405)  # of a video's cover
_NEW_TOKENS: Final = 24
_PREFERENCES: Final = ("calm films", "fast action films with much humor and surprising turns")


@dataclass(frozen=True, slots=True)
class _Trial:
    """A loaded model and the examples that it is tried with."""

    backend: LocalBackend
    loaded: LoadedCheckpoint
    renderer: Renderer
    examples: Sequence[Example]


def try_model(name: str, backend: Backend) -> Iterator[Finding]:
    """Try a model that runs in this process.

    Args:
        name: Setting of the model ("model", "infer.model").
        backend: The model's backend; the caller closes it.

    Yields:
        One finding for each use. After a failure to load, and for models that are not loaded in
        this process, there are no others.
    """
    if not isinstance(backend, LocalBackend):
        return
    try:
        loaded = backend.load()
        renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
    except MllmMsrError as error:
        yield Finding(f"{name}: load", "broken", str(error))
        return
    with tempfile.TemporaryDirectory() as folder:
        examples = _make_examples(Path(folder), shown=loaded.supports_images)
        trial = _Trial(backend, loaded, renderer, examples)
        yield Finding(f"{name}: class", "ok", _describe_class(trial))
        uses: dict[str, Callable[[_Trial], str]] = {
            "template": _try_template,
            "image" if loaded.supports_images else "prompt": _try_scoring,
            "answer": _try_generation,
            "batches": _try_batches,
            "optimizations": _describe_optimizations,
            "training": _try_training,  # changes the model, so it comes last
        }
        for use, run in uses.items():
            try:
                yield Finding(f"{name}: {use}", "ok", run(trial))
            except (*MODEL_ERRORS, MllmMsrError) as error:
                yield Finding(f"{name}: {use}", "broken", first_line(error))


def _make_examples(folder: Path, *, shown: bool) -> list[Example]:
    examples = []
    for label, preference in enumerate(_PREFERENCES):
        path = folder / f"{label}.png"
        size = _IMAGE_SIZE if label == 0 else _IMAGE_SIZE[::-1]
        Image.linear_gradient("L").convert("RGB").resize(size).save(path)
        item = Item(f"i{label}", "A quiet harbor", image=path if shown else None)
        text = f"The user appears to have a preference for {preference}."
        prompt = build_prompt(text, item, item_type="video")
        examples.append(Example(0, "train", "uniform", "u", 1, item.item_id, label, prompt))
    return examples


def _describe_class(trial: _Trial) -> str:
    model: Any = trial.loaded.model
    n_bytes = sum(weight.nbytes for weight in model.parameters())
    tested = "a tested type" if is_tested(model.config) else "not a tested type: see batches"
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"{type(model).__name__} ({model.config.model_type}, {tested}), "
        f"{n_bytes / 2**30:,.2f} GiB of weights in {dtype} on {model.device}"
    )


def _try_template(trial: _Trial) -> str:
    trial.renderer.require_answer_position()
    switches = trial.renderer.template_switches
    shown = ", ".join(f"{key}={value}" for key, value in switches.items())
    return f"variables that turn thoughts off: {shown}" if shown else "no variables for thoughts"


def _try_scoring(trial: _Trial) -> str:
    rendered = trial.renderer.render(trial.examples[0].prompt)
    ids = trial.renderer.choice_ids(rendered.input_ids, CHOICES)
    _, scores = next(iter(trial.backend.score([trial.examples[0].prompt], CHOICES)))
    if scores.error:
        raise TrainingError(scores.error)
    n_image = len(rendered.input_ids) - rendered.n_text_tokens
    width, height = _IMAGE_SIZE
    image = f"{n_image} tokens for an image of {width} x {height} pixels, " if n_image else ""
    answers = ", ".join(f"{word} = {token}" for word, token in zip(CHOICES, ids, strict=True))
    return f"{image}{rendered.n_text_tokens} of text; tokens of the answers: {answers}"


def _try_generation(trial: _Trial) -> str:
    images = tuple(ImagePart(path) for path in trial.examples[0].prompt.images)
    turn = Message("user", (*images, TextPart("Describe a quiet harbor in one sentence.")))
    start = time.monotonic()
    _, answer = next(iter(trial.backend.generate([Prompt((turn,), max_new_tokens=_NEW_TOKENS)])))
    if answer.error:
        raise TrainingError(answer.error)
    seconds = time.monotonic() - start
    return f"{answer.output_tokens} tokens in {seconds:.1f} s: {answer.text[:60]!r}"


def _try_batches(trial: _Trial) -> str:
    first, second = (trial.renderer.render(example.prompt) for example in trial.examples)
    problem = find_batch_problem(trial.loaded.model, trial.renderer, (first, second))
    if problem:
        return f"prompts run one by one: {problem}"
    return "a batch gives the results of single prompts"


def _describe_optimizations(trial: _Trial) -> str:
    return " ".join(describe_optimizations(trial.loaded.model))


def _try_training(trial: _Trial) -> str:
    model = add_lora(trial.loaded.model, rank=4, alpha=8, dropout=0.0)
    collator = Collator(trial.renderer, trial.examples)
    vision = VisionCache.open(model, trial.renderer, collator.with_images())
    batch = collator.training_batch(range(len(trial.examples)), pixels=vision is None)
    device, dtype = trial.loaded.model.device, trial.loaded.model.dtype
    inputs: dict[str, Any] = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }
    labels = inputs.pop("labels")
    if vision is not None:
        rows = [collator.rendered(index) for index in range(len(trial.examples))]
        inputs |= vision.inputs(rows)
    loss = example_losses(model.train(), inputs, labels).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    if not gradients or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        raise TrainingError("The gradients of LoRA are missing or not finite.")
    layers = adapted_layers(model)
    names = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))
    features = "cached" if vision is not None else "not cached"
    images = f", features of images {features}" if trial.loaded.supports_images else ""
    return f"loss {float(loss.detach()):.2f}; LoRA on {len(layers)} layers ({names}){images}"
