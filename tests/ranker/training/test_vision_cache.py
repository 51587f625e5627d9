from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_checkpoints
from mllm_msr.models import vision_cache
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import add_lora, unfreeze_language
from mllm_msr.ranker.training.loss import choice_logits, example_losses

Checkpoint = Callable[[str], Path]


def parts(folder: Path, examples: Any) -> tuple[Any, Renderer, Collator]:
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
    return unfreeze_language(loaded.model), renderer, Collator(renderer, examples)


# Models with more than one field of features, or with features that are not one tensor.
OTHERS = ("qwen3_vl", "ovis2", "granite4_vision", "minicpmv4_6", "gemma4")


@pytest.mark.parametrize("family", [*tiny_checkpoints.VISION_FAMILIES, *OTHERS])
def test_cached_features_give_the_losses_of_pixels(
    tiny_checkpoint: Checkpoint, make_examples: Any, family: str
) -> None:
    examples = [*make_examples(5, shown=True), *make_examples(2, shown=False)]
    model, renderer, collator = parts(tiny_checkpoint(family), examples)
    assert VisionCache.supports(model)
    cache = VisionCache(model, renderer)
    rows = [0, 5, 1, 2, 6, 3, 4]
    for _ in range(2):  # the first pass fills the cache
        plain = collator.training_batch(rows)
        labels = plain.pop("labels")
        lean = collator.training_batch(rows, pixels=False)
        lean.pop("labels")
        features = cache.inputs([collator.rendered(row) for row in rows])
        expected = example_losses(model, plain, labels)
        found = example_losses(model, {**lean, **features}, labels)
        assert torch.allclose(found, expected, atol=1e-5)
    found.sum().backward()
    assert any(weight.grad is not None for weight in model.parameters())


def test_each_image_is_encoded_once(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    examples = make_examples(12, shown=True)
    model, renderer, collator = parts(tiny_checkpoint("llava_next"), examples)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.model.vision_tower.register_forward_hook(count)
    cache = VisionCache(model, renderer)
    rows = [collator.rendered(row) for row in range(12)]
    for _ in range(3):
        cache.inputs(rows)
    assert calls == len({row.images for row in rows}) == 4


def test_features_are_correct_without_room_in_the_cache(
    tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    examples = make_examples(6, shown=True)
    model, renderer, collator = parts(tiny_checkpoint("llava_next"), examples)
    rows = [collator.rendered(row) for row in range(6)]
    inputs = collator.scoring_batch(range(6), pixels=False)
    with torch.no_grad():
        roomy = VisionCache(model, renderer).inputs(rows)
        expected = choice_logits(model, {**inputs, **roomy}, collator.choice_ids)
        for max_bytes in (0, 20_000):
            tight = VisionCache(model, renderer, max_bytes=max_bytes).inputs(rows)
            found = choice_logits(model, {**inputs, **tight}, collator.choice_ids)
            assert torch.equal(found, expected)


def test_text_models_are_not_supported(tiny_checkpoint: Checkpoint) -> None:
    def loaded(family: str) -> Any:
        return load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu").model

    assert not VisionCache.supports(add_lora(loaded("llama"), rank=2, alpha=2, dropout=0.0))
    assert VisionCache.supports(add_lora(loaded("llava_next"), rank=2, alpha=2, dropout=0.0))


class TestOpen:
    @pytest.fixture
    def unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Treat all families as untested."""
        monkeypatch.setattr(vision_cache, "is_tested", lambda _: False)

    @pytest.mark.usefixtures("unknown")
    @pytest.mark.parametrize("family", ["qwen3_vl", "granite4_vision"])
    def test_an_unknown_model_whose_features_give_the_same_logits_has_a_cache(
        self, family: str, tiny_checkpoint: Checkpoint, make_examples: Any
    ) -> None:
        model, renderer, collator = parts(tiny_checkpoint(family), make_examples(2, shown=True))
        model.train()
        assert VisionCache.open(model, renderer, collator.with_images()) is not None
        assert model.model.visual.training if family == "qwen3_vl" else model.training

    @pytest.mark.usefixtures("unknown")
    @pytest.mark.parametrize("problem", ["raises", "changes the logits"])
    def test_an_unknown_model_that_does_not_read_its_features_has_none(
        self,
        problem: str,
        tiny_checkpoint: Checkpoint,
        make_examples: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        model, renderer, collator = parts(
            tiny_checkpoint("qwen2_5_vl"), make_examples(2, shown=True)
        )
        encode = model.get_image_features

        def wrong(*args: Any, **options: Any) -> Any:
            if problem == "raises":
                raise KeyError("deepstack")
            output = encode(*args, **options)
            output.pooler_output = tuple(-part for part in output.pooler_output)
            return output

        monkeypatch.setattr(model, "get_image_features", wrong)
        assert VisionCache.open(model, renderer, collator.with_images()) is None
        assert "Image features are not cached: " in caplog.text

    def test_a_model_without_images_is_not_tried(
        self, tiny_checkpoint: Checkpoint, make_examples: Any
    ) -> None:
        model, renderer, collator = parts(tiny_checkpoint("llama"), make_examples(2))
        assert VisionCache.open(model, renderer, collator.with_images()) is None
