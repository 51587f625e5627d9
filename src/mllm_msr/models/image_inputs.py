"""Images as a model takes them: prepared once by its processor, kept for their next use.

A score of every (user, item) pair shows each item's image many times; what the processor makes
of it is therefore kept, up to a number of bytes. `models/inputs.py` asks for it twice: for the number
of tokens that a image takes, and for the tensors when prompts are stacked to a batch.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mllm_msr.data.images import open_image


@dataclass(frozen=True, slots=True)
class Images:
    """One prompt's images, prepared.

    Attributes:
        inputs: The model's inputs besides token ids, each with the images (or their patches)
            as first axis.
        expansion: What a single image's placeholder becomes, as text; `None` where text
            cannot express it or there are several images.
        type_name: Name of the model's input that marks image tokens, `None` without one.
        typed_ids: Token ids that it marks.
    """

    inputs: Mapping[str, Tensor]
    expansion: str | None
    type_name: str | None
    typed_ids: frozenset[int]

    @property
    def n_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.nbytes for tensor in self.inputs.values())


class ImageCache:
    """Prepares images for one processor, least recently used ones leaving first.

    Args:
        processor: A multimodal checkpoint's processor.
        max_bytes: Memory for prepared images; a LLaVA-NeXT image of five tiles takes 7 MB.

    Attributes:
        max_bytes: As given.
        n_prepared_bytes: Size of all that was prepared so far, whether kept or not.
    """

    def __init__(self, processor: Any, *, max_bytes: int = 512 * 2**20) -> None:
        self.max_bytes = max_bytes
        self.n_prepared_bytes = 0
        self._processor = processor
        self._n_bytes = 0
        self._kept: OrderedDict[tuple[Path, ...], Images] = OrderedDict()

    def get(self, paths: tuple[Path, ...]) -> Images:
        """The images of one prompt, in its order.

        They are prepared together, since some processors split a image only where it is alone.

        Raises:
            ImageError: One cannot be opened.
        """
        if paths in self._kept:
            self._kept.move_to_end(paths)
            return self._kept[paths]
        images = _prepare(self._processor, paths)
        self._kept[paths] = images
        self._n_bytes += images.n_bytes
        self.n_prepared_bytes += images.n_bytes
        while self._n_bytes > self.max_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= oldest.n_bytes
        return images


def stack_images(batch: Sequence[Images]) -> dict[str, Tensor]:
    """The model's image inputs for a batch, all images one after another.

    Axes other than the first grow with zeros to the largest of the batch. Models tell such
    filling from a image by its size, mask or zeros, so that a image's features do not depend
    on its neighbours.
    """
    names = batch[0].inputs if batch else ()
    return {name: _stack([images.inputs[name] for images in batch]) for name in names}


def _prepare(processor: Any, paths: tuple[Path, ...]) -> Images:
    output = processor(
        text=[processor.image_token * len(paths)],
        images=[open_image(path) for path in paths],
        return_tensors="pt",
        add_special_tokens=False,
    )
    inputs = dict(output)
    ids = inputs.pop("input_ids")[0].tolist()
    inputs.pop("attention_mask", None)
    type_name = next((name for name in inputs if name.endswith("token_type_ids")), None)
    types = inputs.pop(type_name)[0].tolist() if type_name else []
    return Images(
        inputs=inputs,
        expansion=_as_text(processor.tokenizer, ids) if len(paths) == 1 else None,
        type_name=type_name,
        typed_ids=frozenset(itertools.compress(ids, types)),
    )


def _as_text(tokenizer: Any, ids: list[int]) -> str | None:
    """Text that tokenises to these ids, `None` where decoding does not give it."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text if tokenizer(text, add_special_tokens=False)["input_ids"] == ids else None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    grown = []
    for tensor in tensors:
        gaps = [wide - size for size, wide in zip(tensor.shape[1:], shape, strict=True)]
        widths = [width for gap in reversed(gaps) for width in (0, gap)]
        grown.append(torch.nn.functional.pad(tensor, widths) if any(widths) else tensor)
    return torch.cat(grown)
