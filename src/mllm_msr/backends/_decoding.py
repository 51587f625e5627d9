"""Answers written side by side, each leaving when it is finished and making room for the next.

A batch that waits for its longest answer spends most of its steps on rows that have ended; here
the engine fills their places (continuous batching), so that a step is spent on every token that
is written and on no other. Greedy; the result is that of each prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_msr.backends._logits import last_places

# Places by which the room of all rows grows.
_STEP: Final = 64
_ATTENTION: Final = frozenset({"eager", "sdpa"})


def can_write(model: Any) -> bool:
    """Whether rows of different lengths may share a step: attention must take a mask of ours.

    Args:
        model: A causal language model for which `_prefixes.can_share` holds.
    """
    attention = model.get_decoder().config._attn_implementation  # noqa: SLF001 - no public name
    return attention in _ATTENTION


class Rows:
    """Answers in the making: their tokens, and the keys and values of all that they look at.

    Args:
        model: A causal language model for which `can_write` holds.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        attention = model.get_decoder().config._attn_implementation  # noqa: SLF001
        self._states = _States(across=attention == "eager")
        self._lengths = torch.zeros(0, dtype=torch.long, device=model.device)  # [rows]
        self._latest = self._lengths  # tokens that the model has not read yet [rows]
        self.written: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.written)

    @torch.inference_mode()
    def add(self, inputs: dict[str, Any], last: Tensor) -> None:
        """Read prompts and write the first token of each answer.

        Args:
            inputs: What the model's `forward` takes, padded on the right; with a cache where the
                prompts' beginnings have been read.
            last: Place of each prompt's last token in `input_ids` [new rows].
        """
        cache = inputs.get("past_key_values", DynamicCache())
        with last_places(self._model, last):
            output = self._model(**{**inputs, "past_key_values": cache}, use_cache=True)
        first = output.logits[:, 0].float().argmax(dim=-1)
        self._states.add(cache, n_rows=len(self))
        lengths = inputs["attention_mask"].sum(dim=1)
        self._lengths = torch.cat([self._lengths, lengths])
        self._latest = torch.cat([self._latest, first])
        self.written += [[token] for token in first.tolist()]

    @torch.inference_mode()
    def step(self) -> None:
        """Write one more token of each answer."""
        longest = int(self._lengths.max()) + 1
        self._states.open(self._lengths, longest)
        places = torch.arange(longest, device=self._lengths.device)
        unseen = places > self._lengths.unsqueeze(1)  # [rows, longest]
        dtype = self._model.dtype
        mask = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device)
        mask = mask.masked_fill(unseen, torch.finfo(dtype).min)
        hidden = self._model.get_decoder()(
            input_ids=self._latest.unsqueeze(1),
            position_ids=self._lengths.unsqueeze(1),
            attention_mask=mask[:, None, None],  # [rows, 1, 1, longest]
            past_key_values=self._states,
            use_cache=True,
        ).last_hidden_state  # [rows, 1, hidden]
        logits = self._model.get_output_embeddings()(hidden[:, 0])
        self._latest = logits.float().argmax(dim=-1)
        self._lengths = self._lengths + 1
        for answer, token in zip(self.written, self._latest.tolist(), strict=True):
            answer.append(token)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Let all other rows go."""
        index = torch.tensor(rows, dtype=torch.long, device=self._lengths.device)
        self._states.keep(index)
        self._lengths, self._latest = self._lengths[index], self._latest[index]
        self.written = [self.written[row] for row in rows]


class _States:
    """Keys and values of rows of different lengths; stands where a cache does.

    Args:
        across: Keep keys as plain attention multiplies them, [rows, heads, size, places]: one
            token's attention to them takes half the time in bfloat16 on a CPU, which copies them
            first where they lie otherwise.
    """

    def __init__(self, *, across: bool) -> None:
        self._across = across
        # [room for rows, heads, places, size], of keys the view that may lie across.
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._n_rows = 0
        self._lengths = torch.zeros(0)
        self._longest = 0

    def add(self, cache: DynamicCache, *, n_rows: int) -> None:
        """Append the rows of a cache to the first `n_rows`."""
        new = [(layer.keys, layer.values) for layer in cache.layers]
        rows, _, length, _ = new[0][0].shape
        self._reserve(n_rows + rows, length, like=new)
        self._n_rows = n_rows + rows
        for kept, added in zip(self._layers, new, strict=True):
            for room, states in zip(kept, added, strict=True):
                room[n_rows : self._n_rows, :, :length] = states

    def open(self, lengths: Tensor, longest: int) -> None:
        """Prepare for one token behind each row's `lengths`, the last at place `longest` - 1."""
        self._reserve(self._n_rows, longest, like=self._layers)
        self._lengths, self._longest = lengths, longest

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Put down one token's keys and values for each row, and give those of all."""
        rows = torch.arange(self._n_rows, device=keys.device)
        both = self._layers[layer_idx]
        for room, states in zip(both, (keys, values), strict=True):
            room[rows, :, self._lengths] = states[:, :, 0]
        first, second = (room[: self._n_rows, :, : self._longest] for room in both)
        return first, second

    def keep(self, rows: Tensor) -> None:
        """Let all other rows go; what is left moves to the front."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for both in self._layers:
            for room in both:
                room[moved] = room[rows[moved]]
        self._n_rows = len(rows)

    @staticmethod
    def _room(like: Tensor, shape: tuple[int, int, int, int], *, across: bool) -> Tensor:
        rows, heads, places, size = shape
        if across:
            return like.new_zeros(rows, heads, size, places).transpose(2, 3)
        return like.new_zeros(shape)

    def _reserve(self, n_rows: int, length: int, *, like: Sequence[tuple[Tensor, Tensor]]) -> None:
        held = self._layers[0][0].shape if self._layers else (0, 0, 0)
        if n_rows <= held[0] and length <= held[2]:
            return
        n_rows, places = max(n_rows, held[0]), max(length + _STEP, held[2])
        grown = []
        for number, both in enumerate(like):
            pair = []
            for which, states in enumerate(both):
                shape = (n_rows, states.shape[1], places, states.shape[3])
                room = self._room(states, shape, across=self._across and which == 0)
                if self._layers:
                    room[: held[0], :, : held[2]] = self._layers[number][which]
                pair.append(room)
            grown.append((pair[0], pair[1]))
        self._layers = grown
