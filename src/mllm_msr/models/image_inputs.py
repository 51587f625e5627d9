"""Image inputs of a model, prepared by its processor and cached.

Scoring (user, item) pairs uses each item's image many times, so the output of the image processor
is cached, up to a number of bytes. `models/inputs.py` reads it twice: to count the tokens of an
image, and to collate the tensors of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

from mllm_msr.data.images import open_image
from mllm_msr.errors import ImageError


@dataclass(frozen=True, slots=True)
class Images:
    """The prepared images of one prompt.

    Attributes:
        inputs: The model's inputs other than token ids; the first axis is the image (or patch).
        expansion: Text that replaces the placeholder of a single image; None if text cannot
            express it or there are several images.
        type_name: Name of the model input that marks image tokens; None without one.
        typed_ids: Token ids that it marks.
    """

    inputs: Mapping[str, Tensor]
    expansion: str | None
    type_name: str | None
    typed_ids: frozenset[int]

    @property
    def n_bytes(self) -> int:
        """Return the size of the tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.inputs.values())


class ImageCache:
    """Least-recently-used cache of prepared images for one processor.

    Args:
        processor: A multimodal checkpoint's processor.
        max_bytes: Memory for prepared images, in bytes. A LLaVA-NeXT image of five tiles takes
            7 MB.

    Attributes:
        max_bytes: Memory for prepared images, in bytes.
        n_prepared_bytes: Size of all images prepared so far, cached or not.
    """

    def __init__(self, processor: Any, *, max_bytes: int = 512 * 2**20) -> None:
        self.max_bytes = max_bytes
        self.n_prepared_bytes = 0
        self._processor = processor
        self._cache: LRUCache[tuple[Path, ...], Images] = LRUCache(
            max_bytes, getsizeof=lambda images: images.n_bytes
        )

    def get(self, paths: tuple[Path, ...]) -> Images:
        """Return the prepared images of one prompt, in its order.

        The images of a prompt are prepared together, since some processors split an image into
        tiles only if it is the only one.

        Raises:
            ImageError: An image cannot be opened, or the processor rejects it.
        """
        images = self._cache.get(paths)
        if images is None:
            images = self._prepare(paths)
            self.n_prepared_bytes += images.n_bytes
            if images.n_bytes <= self.max_bytes:
                self._cache[paths] = images
        return images

    def _prepare(self, paths: tuple[Path, ...]) -> Images:
        opened = [open_image(path) for path in paths]
        try:
            output = self._processor(
                text=[self._processor.image_token * len(paths)],
                images=opened,
                return_tensors="pt",
                add_special_tokens=False,
            )
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            shown = ", ".join(
                f"{path.name} ({image.width} x {image.height} pixels)"
                for path, image in zip(paths, opened, strict=True)
            )
            raise ImageError(
                f"The model's processor rejects the image {shown}: {error}. Replace the image."
            ) from error
        inputs = dict(output)
        ids = inputs.pop("input_ids")[0].tolist()
        inputs.pop("attention_mask", None)
        type_name = next((name for name in inputs if name.endswith("token_type_ids")), None)
        types = inputs.pop(type_name)[0].tolist() if type_name else []
        tokenizer = self._processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        is_exact = tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        return Images(
            inputs=inputs,
            expansion=text if is_exact and len(paths) == 1 else None,
            type_name=type_name,
            typed_ids=frozenset(itertools.compress(ids, types)),
        )


def stack_images(batch: Sequence[Images]) -> dict[str, Tensor]:
    """Concatenate the image inputs of a batch along the first axis.

    All other axes are zero-padded to the largest size in the batch. Models ignore this padding by
    the image's size, a mask or the zeros themselves, so that the features of an image do not
    depend on the rest of the batch.
    """
    names = batch[0].inputs if batch else ()
    stacked = {}
    for name in names:
        tensors = [images.inputs[name] for images in batch]
        sizes = zip(*(tensor.shape[1:] for tensor in tensors), strict=True)
        shape = [max(axis) for axis in sizes]
        stacked[name] = torch.cat([_pad_to(tensor, shape) for tensor in tensors])
    return stacked


def _pad_to(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Append zeros to all axes of a tensor except the first."""
    gaps = [target - size for size, target in zip(tensor.shape[1:], shape, strict=True)]
    widths = [width for gap in reversed(gaps) for width in (0, gap)]
    return torch.nn.functional.pad(tensor, widths) if any(widths) else tensor
