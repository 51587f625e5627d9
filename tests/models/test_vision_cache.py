"""Tests of cached image features in batches of prompts with different numbers of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.models import vision_cache
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.types import ImagePart, Message, Prompt, TextPart


@pytest.mark.parametrize("family", ["granite4_vision", "llava_next", "ovis2", "qwen3_vl"])
def test_prompts_may_have_different_numbers_of_images(
    family: str, tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
) -> None:
    loaded = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    renderer = Renderer(loaded.processor, supports_images=True)
    shown = [(images[0], images[1]), (images[2],), (), (images[0],)]
    rows = [
        renderer.render(
            Prompt((Message("user", (*map(ImagePart, some), TextPart("Well?"))),), max_new_tokens=1)
        )
        for some in shown
    ]
    model: Any = loaded.model
    for order in itertools.permutations(rows, 3):
        cache = VisionCache(model, renderer)
        batch = renderer.collate(order, pad_side="right", with_answers=False)
        lean = {k: v for k, v in batch.items() if not k.startswith("pixel_")}
        with torch.no_grad():
            expected = model(**batch).logits
            found = model(**lean, **cache.inputs(order)).logits
        rows_seen = batch["attention_mask"].bool()
        assert torch.allclose(found[rows_seen], expected[rows_seen], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "n_passes"),
    [("llava", 1), ("llava_next", 1), ("smolvlm", 1), ("qwen2_5_vl", 1), ("granite4_vision", 4)],
)
def test_images_encoded_together_have_the_same_features(
    family: str,
    n_passes: int,
    tiny_checkpoint: Callable[[str], Path],
    images: Sequence[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    renderer = Renderer(loaded.processor, supports_images=True)
    rows = [
        renderer.render(
            Prompt((Message("user", (ImagePart(image), TextPart("Well?"))),), max_new_tokens=1)
        )
        for image in images[:3]
    ]
    model: Any = loaded.model
    batch = renderer.collate(rows, pad_side="right", with_answers=False)
    lean = {k: v for k, v in batch.items() if not k.startswith("pixel_")}
    passes: list[int] = []
    encode = vision_cache.encode_images
    monkeypatch.setattr(
        vision_cache,
        "encode_images",
        lambda *given: passes.append(len(given[-1])) or encode(*given),
    )
    cache = VisionCache(model, renderer)
    with torch.no_grad():
        expected = model(**batch).logits
        for together in (True, True, False):
            features = cache.inputs(rows, together=together)
            assert torch.allclose(model(**lean, **features).logits, expected, atol=1e-5)
    assert passes[0] == 3
    # Features that cannot be split are computed again, image by image.
    assert len([n for n in passes if n != 2]) == n_passes
