"""Answers written side by side, each leaving when it is finished and making room for the next.

A batch that waits for its longest answer spends most of its steps on rows that have ended; here
the engine fills their places (continuous batching), and several tokens of an answer are read in
one step where they can be guessed (`_speculation.py`). Greedy; the result is that of each prompt
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_msr.inference.engine.logits import last_places
from mllm_msr.inference.engine.prompt_lookup import LONGEST_MATCH, Speculation

# Stands where a row has fewer guesses than another; no token has this id.
_NOTHING: Final = -1

# Places by which the room of all rows grows.
_STEP: Final = 64
_ATTENTION: Final = frozenset({"eager", "sdpa"})


def can_write(model: Any) -> bool:
    """Whether rows of different lengths may share a step: attention must take a mask of ours.

    Args:
        model: A causal language model for which `_prefixes.can_share_prefixes` holds.
    """
    attention = model.get_decoder().config._attn_implementation  # noqa: SLF001 - no public name
    return attention in _ATTENTION


class Rows:
    """Answers in the making: their tokens, and the keys and values of all that they look at.

    Args:
        model: A causal language model for which `can_write` holds.
        speculation: Guesses what comes next.

    Attributes:
        written: Tokens of each answer; the last step may have written more than one, perhaps past
            the answer's end.
    """

    def __init__(self, model: Any, speculation: Speculation) -> None:
        self._model = model
        self._speculation = speculation
        attention = model.get_decoder().config._attn_implementation  # noqa: SLF001
        self._states = _States(across=attention == "eager")
        self._lengths = torch.zeros(0, dtype=torch.long, device=model.device)  # [rows]
        self._prompts: list[Sequence[int]] = []
        self.written: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.written)

    @torch.inference_mode()
    def add(self, prompts: Sequence[Sequence[int]], inputs: dict[str, Any], last: Tensor) -> None:
        """Read prompts and write the first token of each answer.

        Args:
            prompts: Tokens of each new prompt.
            inputs: What the model's `forward` takes, padded on the right; with a cache where the
                prompts' beginnings have been read.
            last: Place of each prompt's last token in `input_ids` [new rows].
        """
        cache = inputs.get("past_key_values", DynamicCache())
        with last_places(self._model, last):
            output = self._model(**{**inputs, "past_key_values": cache}, use_cache=True)
        first = output.logits[:, 0].float().argmax(dim=-1)
        self._states.add(cache, n_rows=len(self))
        self._lengths = torch.cat([self._lengths, inputs["attention_mask"].sum(dim=1)])
        self._prompts += prompts
        self.written += [[token] for token in first.tolist()]
        for prompt in prompts:
            self._speculation.learn(prompt)

    @torch.inference_mode()
    def step(self) -> None:
        """Write one more token of each answer, and those behind it that were guessed."""
        endings = [self._ending(row) for row in range(len(self))]
        guesses = self._speculation.guess(endings)
        width = max(map(len, guesses))
        read = [
            [ending[-1], *guess, *[_NOTHING] * (width - len(guess))]
            for ending, guess in zip(endings, guesses, strict=True)
        ]
        tokens = torch.tensor(read, device=self._lengths.device)  # [rows, 1 + width]
        nexts = self._following(tokens)
        n_right = (nexts[:, :-1] == tokens[:, 1:]).cumprod(dim=1).sum(dim=1)  # [rows]
        self._lengths = self._lengths + n_right + 1
        for row, (found, n) in enumerate(zip(nexts.tolist(), n_right.tolist(), strict=True)):
            self._write(row, found[: n + 1])
        self._speculation.judge(n_right.tolist(), width)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Let all other rows go."""
        index = torch.tensor(rows, dtype=torch.long, device=self._lengths.device)
        self._states.keep(index)
        self._lengths = self._lengths[index]
        self._prompts = [self._prompts[row] for row in rows]
        self.written = [self.written[row] for row in rows]

    def _following(self, tokens: Tensor) -> Tensor:
        """What the model writes after each of the tokens [rows, n], were those before it right."""
        behind = torch.arange(tokens.shape[1], device=tokens.device)
        positions = self._lengths.unsqueeze(1) + behind  # [rows, n]
        longest = int(self._lengths.max()) + tokens.shape[1]
        self._states.open(positions, longest)
        places = torch.arange(longest, device=tokens.device)
        unseen = places > positions.unsqueeze(2)  # [rows, n, longest]
        dtype = self._model.dtype
        mask = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device)
        mask = mask.masked_fill(unseen, torch.finfo(dtype).min)
        hidden = self._model.get_decoder()(
            input_ids=tokens.clamp(min=0),
            position_ids=positions,
            attention_mask=mask.unsqueeze(1),  # [rows, 1, n, longest]
            past_key_values=self._states,
            use_cache=True,
        ).last_hidden_state  # [rows, n, hidden]
        logits: Tensor = self._model.get_output_embeddings()(hidden)
        return logits.float().argmax(dim=-1)

    def _ending(self, row: int) -> list[int]:
        written = self.written[row][-LONGEST_MATCH:]
        if len(written) == LONGEST_MATCH:
            return written
        return [*self._prompts[row][len(written) - LONGEST_MATCH :], *written]

    def _write(self, row: int, tokens: Sequence[int]) -> None:
        known = self._ending(row)
        self.written[row] += tokens
        self._speculation.learn([*known, *tokens], len(known))


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
        self._positions = torch.zeros(0)
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

    def open(self, positions: Tensor, longest: int) -> None:
        """Prepare for tokens at these places of each row [rows, n], all before `longest`."""
        self._reserve(self._n_rows, longest, like=self._layers)
        self._positions, self._longest = positions, longest

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Put down the new tokens' keys and values, and give those of all."""
        rows = torch.arange(self._n_rows, device=keys.device).unsqueeze(1)
        both = self._layers[layer_idx]
        for room, states in zip(both, (keys, values), strict=True):
            room[rows, :, self._positions] = states.transpose(1, 2)
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
