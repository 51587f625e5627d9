"""Prepared pictures: kept while there is room, stacked without touching one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.checkpoints import load_processor
from mllm_msr.pictures import PictureCache, Pictures, stack_pictures


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Callable[[str], Path]) -> Any:
    return load_processor(str(tiny_checkpoint("llava_next")))


class TestPictureCache:
    def test_a_picture_is_prepared_once(self, processor: Any, pictures: Sequence[Path]) -> None:
        cache = PictureCache(processor)
        assert cache.get((pictures[0],)) is cache.get((pictures[0],))

    def test_the_longest_unused_leaves_first(
        self, processor: Any, pictures: Sequence[Path]
    ) -> None:
        size = PictureCache(processor).get((pictures[0],)).n_bytes
        cache = PictureCache(processor, max_bytes=2 * size)
        first, second = cache.get((pictures[0],)), cache.get((pictures[1],))
        assert cache.get((pictures[0],)) is first
        cache.get((pictures[2],))
        assert cache.get((pictures[0],)) is first
        assert cache.get((pictures[1],)) is not second

    def test_one_too_large_for_the_cache_is_given_all_the_same(
        self, processor: Any, pictures: Sequence[Path]
    ) -> None:
        cache = PictureCache(processor, max_bytes=1)
        assert cache.get((pictures[0],)).inputs["pixel_values"].numel() > 0

    def test_the_expansion_names_every_token_of_the_picture(
        self, processor: Any, pictures: Sequence[Path]
    ) -> None:
        prepared = PictureCache(processor).get((pictures[0],))
        n_features = processor(
            text=["<image>"], images=[torch.zeros(3, 40, 60)], return_tensors="pt"
        )["input_ids"]
        assert prepared.expansion is not None
        assert prepared.expansion.count("<image>") == (n_features == processor.image_token_id).sum()


class TestStackPictures:
    def test_smaller_ones_are_filled_with_zeros(self) -> None:
        small = Pictures({"pixels": torch.ones(1, 2, 3)}, None, None, frozenset())
        large = Pictures({"pixels": torch.full((2, 3, 4), 2.0)}, None, None, frozenset())
        stacked = stack_pictures([small, large])["pixels"]
        assert stacked.shape == (3, 3, 4)
        assert stacked[0].sum() == 6
        assert stacked[0, :2, :3].min() == 1
        assert torch.equal(stacked[1:], large.inputs["pixels"])

    def test_no_pictures_give_no_inputs(self) -> None:
        assert stack_pictures([]) == {}
