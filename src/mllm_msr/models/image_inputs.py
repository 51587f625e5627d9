"""Image inputs of a model, prepared by its processor and cached.

Processors return inputs that depend on the image, which are cached, and inputs that depend on the
text, which are not. Which is which, and along which axis images are stacked, is found once for each
processor, with a small image of one color.

Scoring (user, item) pairs uses each item's image many times, so the output of the image processor
is cached, up to a number of bytes. `models/inputs.py` reads it twice: to count the tokens of an
image, and to collate the tensors of a batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor

from mllm_msr.data.images import open_image
from mllm_msr.errors import ImageError

# What processors raise for images and texts that they do not accept.
PROCESSOR_ERRORS: Final = (
    *(ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, RuntimeError, OSError),
)


@dataclass(frozen=True, slots=True)
class Images:
    """The prepared images of one prompt.

    Attributes:
        inputs: The model's inputs that depend on the images alone.
        expansion: Text that replaces the placeholder of a single image; None if text cannot
            express it or there are several images.
        type_name: Name of the model input that marks image tokens; None without one.
        typed_ids: Token ids that it marks.
        axes: Axis along which each input is stacked; the first one if it is not given.
    """

    inputs: Mapping[str, Tensor]
    expansion: str | None
    type_name: str | None
    typed_ids: frozenset[int]
    axes: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Return the size of the tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.inputs.values())

    def blank(self) -> Images:
        """Return inputs of the same shapes that are zero."""
        zeros = {name: torch.zeros_like(tensor) for name, tensor in self.inputs.items()}
        return replace(self, inputs=zeros)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the outputs of a processor depend on.

    Attributes:
        text_inputs: Names of the outputs, other than token ids, whose size depends on the text.
        axes: Axis along which two images are twice as large as one, where it is not the first.
    """

    text_inputs: frozenset[str] = frozenset()
    axes: Mapping[str, int] = field(default_factory=dict)


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

    @functools.cached_property
    def text_inputs(self) -> frozenset[str]:
        """Return the names of inputs, other than token ids, that depend on the text of a prompt."""
        return self._layout.text_inputs

    @functools.cached_property
    def _layout(self) -> _Layout:
        token = self._processor.image_token
        image = Image.new("RGB", (64, 48), "gray")
        try:
            one, two, longer = (
                self._processor(
                    text=[text] * n_prompts,
                    images=[[image]] * n_prompts,
                    return_tensors="pt",
                    add_special_tokens=False,
                )
                for text, n_prompts in ((token, 1), (token, 2), (f"{token} a b c", 1))
            )
        except PROCESSOR_ERRORS:
            return _Layout()  # such a processor may still accept the images of one prompt
        names = [name for name in one if not _is_of_tokens(name)]
        sizes = {name: [tuple(out[name].shape) for out in (one, two, longer)] for name in names}
        axes = {name: _doubled_axis(*shapes[:2]) for name, shapes in sizes.items()}
        return _Layout(
            frozenset(name for name, shapes in sizes.items() if shapes[0] != shapes[2]),
            {name: axis for name, axis in axes.items() if axis},
        )

    def _prepare(self, paths: tuple[Path, ...]) -> Images:
        opened = [open_image(path) for path in paths]
        try:
            output = self._processor(
                text=[self._processor.image_token * len(paths)],
                images=opened,
                return_tensors="pt",
                add_special_tokens=False,
            )
        except PROCESSOR_ERRORS as error:
            shown = ", ".join(
                f"{path.name} ({image.width} x {image.height} pixels)"
                for path, image in zip(paths, opened, strict=True)
            )
            raise ImageError(
                f"The model's processor rejects the image {shown}: {error}. Replace the image."
            ) from error
        ids = output["input_ids"][0].tolist()
        type_name = next((name for name in output if name.endswith("token_type_ids")), None)
        types = output[type_name][0].tolist() if type_name else []
        inputs = {
            name: _as_float32(torch.as_tensor(value))
            for name, value in output.items()
            if not _is_of_tokens(name) and name not in self.text_inputs
        }
        tokenizer = self._processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        is_exact = tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        return Images(
            inputs=inputs,
            # The markup of other processors may depend on the text before the image.
            expansion=text if is_exact and len(paths) == 1 and not self.text_inputs else None,
            type_name=type_name,
            typed_ids=frozenset(itertools.compress(ids, types)),
            axes=self._layout.axes,
        )


def stack_images(batch: Sequence[Images]) -> dict[str, Tensor]:
    """Concatenate the image inputs of a batch.

    All axes except that of the images are zero-padded to the largest size in the batch. Models
    ignore this padding by the image's size, a mask or the zeros themselves, so that the features of
    an image do not depend on the rest of the batch.
    """
    names = batch[0].inputs if batch else ()
    return {
        name: _stack([images.inputs[name] for images in batch], batch[0].axes.get(name, 0))
        for name in names
    }


def _stack(tensors: Sequence[Tensor], axis: int) -> Tensor:
    sizes = zip(*(tensor.shape for tensor in tensors), strict=True)
    shape = [max(size) for size in sizes]
    padded = []
    for tensor in tensors:
        gaps = [target - size for size, target in zip(tensor.shape, shape, strict=True)]
        gaps[axis] = 0
        widths = [width for gap in reversed(gaps) for width in (0, gap)]
        padded.append(torch.nn.functional.pad(tensor, widths) if any(widths) else tensor)
    return torch.cat(padded, dim=axis)


def _as_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 if it has numbers with fractions; processors may return others."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_of_tokens(name: str) -> bool:
    """Return whether an output of a processor has one value for each token of the text."""
    return name in {"input_ids", "attention_mask", "labels"} or name.endswith("token_type_ids")


def _doubled_axis(one: Sequence[int], two: Sequence[int]) -> int:
    """Return the axis along which a shape is twice another; 0 if there is none."""
    doubled = [
        axis for axis, size in enumerate(one) if len(one) == len(two) and two[axis] == 2 * size
    ]
    return doubled[0] if doubled else 0
