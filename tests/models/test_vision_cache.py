"""Tests of cached image features in batches of prompts with different numbers of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

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
