"""Cache of the states of prompt prefixes with images, reused across calls.

A service scores the same items for many users. The recommender's prompt begins with the item's
image and the instruction (figure 3 of the paper), so everything except the preference and the title
may already be cached from an earlier request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from mllm_msr.models.inputs import Rendered
from mllm_msr.models.prefix_support import common_prefix_length
from mllm_msr.models.states import States

# Matches are rounded down to multiples of this. Otherwise preferences that happen to begin with the
# same words would give prompts different prefix lengths and split their batch.
_BLOCK_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class _Entry:
    ids: tuple[int, ...]
    states: States


class PrefixCache:
    """Least-recently-used cache of states, one entry for each sequence of images.

    The first prompt with an image is stored completely, since it is not known where the next
    prompt will differ. When the second prompt is read, the entry is cut to the common prefix. The
    states of recurrent layers cannot be cut, so only prefixes that several prompts of a call share
    are stored.

    Args:
        max_bytes: Memory for states, on the model's device; 0 disables the cache.
        can_cut: Whether states can be cut to fewer tokens.
    """

    def __init__(self, max_bytes: int, *, can_cut: bool = True) -> None:
        self.max_bytes = max_bytes
        self.can_cut = can_cut
        self._entries: LRUCache[tuple[Path, ...], _Entry] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry.states.n_bytes
        )

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """Return the memory in use, in bytes."""
        return int(self._entries.currsize)

    def match_length(self, prompt: Rendered, *, image_token_id: int | None) -> int:
        """Return how many leading tokens of a prompt are cached; 0 for none.

        Args:
            prompt: A rendered prompt.
            image_token_id: Placeholder id of image tokens.
        """
        entry = self._entries.get(prompt.images)
        if entry is None or image_token_id not in prompt.input_ids:
            return 0
        # The last token is excluded, since the answer is read there.
        common = min(common_prefix_length(entry.ids, prompt.input_ids), len(prompt.input_ids) - 1)
        if not self.can_cut:
            return common if common == len(entry.ids) else 0
        after_images = len(prompt.input_ids) - prompt.input_ids[::-1].index(image_token_id)
        return max(common - common % _BLOCK_SIZE, after_images) if common >= after_images else 0

    def get(self, images: tuple[Path, ...], ids: Sequence[int]) -> States | None:
        """Return the states of a prefix, one row, or None if they are not cached.

        An entry that is longer than the prefix is cut to it.

        Args:
            images: Images of the prefix.
            ids: Token ids of the prefix.
        """
        entry = self._entries.get(images)
        if entry is None or entry.ids[: len(ids)] != tuple(ids):
            return None
        if len(entry.ids) > len(ids):
            if not self.can_cut:
                return None
            cut = entry.states.cut(len(ids))
            entry = self._entries[images] = _Entry(entry.ids[: len(ids)], cut)
        return entry.states

    def put(self, images: tuple[Path, ...], ids: Sequence[int], states: States) -> None:
        """Store a prefix, replacing the entry of the same images.

        An entry larger than the cache is not stored.

        Args:
            images: Images of the prefix. Prefixes without images are not stored.
            ids: Token ids of the prefix.
            states: One row, the states of these tokens; keys and values may be of more tokens.
                They are copied.
        """
        if not images or not self.max_bytes:
            return
        kept = states.cut(len(ids)) if self.can_cut else states.copy()
        if kept.n_bytes <= self.max_bytes:
            self._entries[images] = _Entry(tuple(ids), kept)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
