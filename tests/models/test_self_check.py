"""Tests of the self-check: models whose batches differ from single prompts run one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models import self_check
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.self_check import BatchCheck, find_batch_problem, find_pair
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from tiny_checkpoints import FAMILIES, VISION_FAMILIES

Checkpoint = Callable[[str], Path]


def ask(*parts: str | Path) -> Prompt:
    made = [ImagePart(part) if isinstance(part, Path) else TextPart(part) for part in parts]
    return Prompt((Message("user", tuple(made)),), max_new_tokens=4)


def prompts(images: Sequence[Path], *, vision: bool) -> list[Prompt]:
    shown = [(path,) for path in images] if vision else [()] * 4
    return [ask(*image, "Describe it. " * (1 + n), "?") for n, image in enumerate(shown)]


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat all families as untested."""
    monkeypatch.setattr(self_check, "is_tested", lambda _: False)


def loaded(folder: Path) -> LoadedCheckpoint:
    return load_model(str(folder), dtype="float32", device="cpu")


def ignore_padding(model: Any) -> None:
    """Make a model attend to padding, as one that ignores the mask does."""
    forward = model.forward

    @functools.wraps(forward)
    def unmasked(*args: Any, **inputs: Any) -> Any:
        inputs.pop("attention_mask", None)
        return forward(*args, **inputs)

    model.forward = unmasked


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_5", "minicpmv4_6", "mllama"])
def test_batches_of_real_models_have_no_problem(
    family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    own = loaded(tiny_checkpoint(family))
    renderer = Renderer(own.processor, supports_images=own.supports_images)
    made = prompts(images, vision=family != "llama")
    pair = find_pair([renderer.render(prompt) for prompt in made])
    assert pair is not None
    assert find_batch_problem(own.model, renderer, pair) == ""


@pytest.mark.usefixtures("unknown")
def test_a_model_that_ignores_padding_runs_prompts_one_by_one(
    tiny_checkpoint: Checkpoint, images: Sequence[Path], caplog: pytest.LogCaptureFixture
) -> None:
    own = loaded(tiny_checkpoint("qwen2_5_vl"))
    expected = dict(Engine(own, batch_size=1).score(prompts(images, vision=True), ("yes", "no")))
    ignore_padding(own.model)
    engine = Engine(own, batch_size=4)
    found = dict(engine.score(prompts(images, vision=True), ("yes", "no")))
    assert "one by one, because batches change the results" in caplog.text
    for index, scores in expected.items():
        assert found[index].log_probs == pytest.approx(scores.log_probs, abs=1e-5)


@pytest.mark.usefixtures("unknown")
def test_a_model_that_rejects_batches_runs_prompts_one_by_one(
    tiny_checkpoint: Checkpoint, images: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = loaded(tiny_checkpoint("llava_next"))
    renderer = Renderer(own.processor, supports_images=True)
    rows = [renderer.render(prompt) for prompt in prompts(images, vision=True)]
    check = BatchCheck(own.model, renderer)
    forward = own.model.forward

    def single(*args: Any, **inputs: Any) -> Any:
        if len(inputs["input_ids"]) > 1:
            raise KeyError("one prompt only")
        return forward(*args, **inputs)

    own.model.forward = single
    assert check.limit(8, rows) == 1


def test_a_tested_model_is_not_checked(tiny_checkpoint: Checkpoint, images: Sequence[Path]) -> None:
    own = loaded(tiny_checkpoint("llava_next"))
    renderer = Renderer(own.processor, supports_images=True)
    rows = [renderer.render(prompt) for prompt in prompts(images, vision=True)]
    own.model.forward = None
    assert BatchCheck(own.model, renderer).limit(8, rows) == 8


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_an_unknown_model_is_checked_once_and_keeps_its_batches(
    family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    own = loaded(tiny_checkpoint(family))
    renderer = Renderer(own.processor, supports_images=True)
    rows = [renderer.render(prompt) for prompt in prompts(images, vision=True)]
    check = BatchCheck(own.model, renderer)
    assert check.limit(8, rows[:1]) == 8  # one prompt shows nothing
    assert check.limit(8, rows) == 8
    own.model.forward = None
    assert check.limit(8, rows) == 8


def test_a_prompt_whose_processor_fails_does_not_end_the_others(
    tiny_checkpoint: Checkpoint, images: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(loaded(tiny_checkpoint("llava_next")), batch_size=4)
    render = engine._renderer.render

    def failing(prompt: Prompt) -> Any:
        if prompt.images == (images[1],):
            raise AttributeError("no grid")
        return render(prompt)

    monkeypatch.setattr(engine._renderer, "render", failing)
    found = dict(engine.score(prompts(images, vision=True), ("yes", "no")))
    assert found[1].error == "no grid"
    assert [index for index, scores in found.items() if scores.error is None] != []
