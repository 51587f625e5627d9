"""What a model has read of images that are asked about again, kept from one call to the next.

A service asks about the same items all day, each time for another user. The recommender's prompt
begins with the item's image and the instruction (Figure 3 of the paper), so that of a prompt
that comes alone all but the preference and the title may have been read for somebody before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from mllm_msr.models.inputs import Rendered
from mllm_msr.models.prefix_sharing import common_prefix_length

# Keys and values of each layer [heads, tokens, size].
Layers = Sequence[tuple[Tensor, Tensor]]

# Known beginnings are used in multiples of this: two preferences that happen to open with the same
# words shall not put the prompts of one batch into batches of different lengths.
_STEP: Final = 8


@dataclass(frozen=True, slots=True)
class _Entry:
    ids: tuple[int, ...]
    layers: Layers

    @property
    def n_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def cut(self, n_tokens: int) -> _Entry:
        """Its first tokens, in memory of their own."""
        layers = [(k[:, :n_tokens].clone(), v[:, :n_tokens].clone()) for k, v in self.layers]
        return _Entry(self.ids[:n_tokens], layers)


class PrefixCache:
    """Keys and values of prompts that begin with images, those used last, one for each image.

    The first prompt about a image is kept whole, since one prompt does not tell where the next
    will differ; the second one tells, and the rest is dropped.

    Args:
        max_bytes: Memory for keys and values, on the device of the model; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Path, ...], _Entry] = OrderedDict()
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """Bytes in use."""
        return self._n_bytes

    def n_known(self, prompt: Rendered, *, image_token_id: int | None) -> int:
        """How many of a prompt's first tokens need not be read again; 0 for none.

        Args:
            prompt: A rendered prompt.
            image_token_id: Placeholder of a image's tokens.
        """
        entry = self._entries.get(prompt.images)
        if entry is None or image_token_id not in prompt.input_ids:
            return 0
        # The last token stays outside, since the answer is read there.
        common = min(common_prefix_length(entry.ids, prompt.input_ids), len(prompt.input_ids) - 1)
        after_images = len(prompt.input_ids) - prompt.input_ids[::-1].index(image_token_id)
        return max(common - common % _STEP, after_images) if common >= after_images else 0

    def get(self, images: tuple[Path, ...], ids: Sequence[int]) -> Layers | None:
        """Keys and values of a beginning; None where it was not read.

        Args:
            images: Its images.
            ids: Its tokens.
        """
        entry = self._entries.get(images)
        if entry is None or entry.ids[: len(ids)] != tuple(ids):
            return None
        if len(entry.ids) > len(ids):
            self.put(images, ids, entry.layers)
            return self.get(images, ids)
        self._entries.move_to_end(images)
        return entry.layers

    def put(self, images: tuple[Path, ...], ids: Sequence[int], layers: Layers) -> None:
        """Keep a beginning in place of what was known of its images.

        Args:
            images: Its images; text alone is not kept.
            ids: Its tokens.
            layers: Keys and values of at least these tokens; they are copied.
        """
        if not images or not self.max_bytes:
            return
        entry = _Entry(tuple(ids), layers).cut(len(ids))
        if entry.n_bytes > self.max_bytes:
            return
        self._drop(images)
        self._entries[images] = entry
        self._n_bytes += entry.n_bytes
        while self._n_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Free the memory."""
        self._entries.clear()
        self._n_bytes = 0

    def _drop(self, images: tuple[Path, ...]) -> None:
        if (entry := self._entries.pop(images, None)) is not None:
            self._n_bytes -= entry.n_bytes
