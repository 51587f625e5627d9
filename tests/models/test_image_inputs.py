"""Tests of prepared images: the cache and stacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mllm_msr.errors import ImageError
from mllm_msr.models.image_inputs import ImageCache, Images, stack_images
from mllm_msr.models.loading import load_processor


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Callable[[str], Path]) -> Any:
    return load_processor(str(tiny_checkpoint("llava_next")))


class TestImageCache:
    def test_an_image_is_prepared_once(self, processor: Any, images: Sequence[Path]) -> None:
        cache = ImageCache(processor)
        assert cache.get((images[0],)) is cache.get((images[0],))

    def test_the_least_recently_used_image_is_evicted(
        self, processor: Any, images: Sequence[Path]
    ) -> None:
        size = ImageCache(processor).get((images[0],)).n_bytes
        cache = ImageCache(processor, max_bytes=2 * size)
        first, second = cache.get((images[0],)), cache.get((images[1],))
        assert cache.get((images[0],)) is first
        cache.get((images[2],))
        assert cache.get((images[0],)) is first
        assert cache.get((images[1],)) is not second

    def test_an_image_larger_than_the_cache_is_returned_and_not_stored(
        self, processor: Any, images: Sequence[Path]
    ) -> None:
        cache = ImageCache(processor, max_bytes=1)
        first = cache.get((images[0],))
        assert first.inputs["pixel_values"].numel() > 0
        assert cache.get((images[0],)) is not first
        assert cache.n_prepared_bytes == 2 * first.n_bytes

    def test_the_expansion_contains_every_token_of_the_image(
        self, processor: Any, images: Sequence[Path]
    ) -> None:
        prepared = ImageCache(processor).get((images[0],))
        n_features = processor(
            text=["<image>"], images=[torch.zeros(3, 40, 60)], return_tensors="pt"
        )["input_ids"]
        assert prepared.expansion is not None
        assert prepared.expansion.count("<image>") == (n_features == processor.image_token_id).sum()

    @pytest.mark.parametrize("size", [(2100, 10), (10, 2100), (3, 1), (40_000, 3)])
    @pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next", "smolvlm", "gemma3"])
    def test_extremely_long_images_are_accepted(
        self,
        family: str,
        size: tuple[int, int],
        tiny_checkpoint: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        Image.new("RGB", size, "red").save(tmp_path / "long.png")
        cache = ImageCache(load_processor(str(tiny_checkpoint(family))))
        prepared = cache.get((tmp_path / "long.png",))
        assert prepared.inputs["pixel_values"].isfinite().all()

    def test_an_image_that_the_processor_rejects_is_named(
        self, processor: Any, images: Sequence[Path]
    ) -> None:
        class Rejecting:
            image_token, tokenizer = "<image>", processor.tokenizer

            def __call__(self, **_: object) -> None:
                raise ValueError("the image is too green")

        with pytest.raises(ImageError, match=rf"rejects the image {images[0].name} \(\d+ x \d+"):
            ImageCache(Rejecting()).get((images[0],))


class TestLayout:
    """What the inputs of a processor depend on is found without a real image."""

    def test_slices_that_are_packed_along_the_last_axis_are_stacked_there(
        self, tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
    ) -> None:
        cache = ImageCache(load_processor(str(tiny_checkpoint("minicpmv4_6"))))
        prepared = [cache.get((path,)) for path in images]
        stacked = stack_images(prepared)["pixel_values"]
        assert stacked.shape[0] == 1
        assert stacked.shape[-1] == sum(each.inputs["pixel_values"].shape[-1] for each in prepared)

    def test_inputs_that_depend_on_the_text_are_not_cached(
        self, tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
    ) -> None:
        cache = ImageCache(load_processor(str(tiny_checkpoint("mllama"))))
        assert cache.text_inputs == {"cross_attention_mask"}
        prepared = cache.get((images[0],))
        assert set(prepared.inputs) == {"pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"}
        assert prepared.expansion is None

    def test_most_processors_have_inputs_of_images_only(self, processor: Any) -> None:
        assert ImageCache(processor).text_inputs == frozenset()

    def test_pixels_are_in_float32_whatever_the_processor_returns(
        self, processor: Any, images: Sequence[Path]
    ) -> None:
        class Half:
            image_token, tokenizer = processor.image_token, processor.tokenizer

            def __call__(self, **inputs: Any) -> dict[str, Any]:
                output = dict(processor(**inputs))
                return output | {"pixel_values": output["pixel_values"].bfloat16()}

        assert ImageCache(Half()).get((images[0],)).inputs["pixel_values"].dtype == torch.float32


class TestStackImages:
    def test_smaller_images_are_zero_padded(self) -> None:
        small = Images({"pixels": torch.ones(1, 2, 3)}, None, None, frozenset())
        large = Images({"pixels": torch.full((2, 3, 4), 2.0)}, None, None, frozenset())
        stacked = stack_images([small, large])["pixels"]
        assert stacked.shape == (3, 3, 4)
        assert stacked[0].sum() == 6
        assert stacked[0, :2, :3].min() == 1
        assert torch.equal(stacked[1:], large.inputs["pixels"])

    def test_an_empty_batch_has_no_inputs(self) -> None:
        assert stack_images([]) == {}
