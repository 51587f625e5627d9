"""Continuous batching: finished sequences leave the batch, and waiting ones take their rows.

A static batch runs until its longest answer ends and spends most of its steps on sequences that
have already ended. Here the engine refills their rows, and a decoding step verifies several draft
tokens at once (`prompt_lookup.py`). Decoding is greedy, and each result equals that of the prompt
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_msr.inference.engine.prompt_lookup import MAX_NGRAM, PromptLookup
from mllm_msr.models.last_token import logits_at
from mllm_msr.models.prefix_support import prefix_support

# Pads rows that have fewer draft tokens than others. No token has this id.
_NO_TOKEN: Final = -1

# Number of positions by which the key-value cache grows.
_GROWTH: Final = 64


class DecodingBatch:
    """Sequences that are being generated, with their keys and values.

    Args:
        model: A causal language model that `models.prefix_support.why_not_continuous` accepts.
        drafts: Proposes draft tokens.

    Attributes:
        generated: Generated tokens of each sequence. The last step may have added more than one,
            including tokens after the end of the answer.
    """

    def __init__(self, model: Any, drafts: PromptLookup) -> None:
        self._model = model
        self._drafts = drafts
        attention = model.get_decoder().config._attn_implementation  # noqa: SLF001
        self._cache = KeyValueCache(transpose_keys=attention in {"eager", "blocked"})
        self._support = prefix_support(model.config)
        self._lengths = torch.zeros(0, dtype=torch.long, device=model.device)  # [rows]
        self._offsets = self._lengths  # between position and index [rows]
        self._prompts: list[Sequence[int]] = []
        self.generated: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.generated)

    @torch.inference_mode()
    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        inputs: dict[str, Any],
        last: Tensor,
        offsets: Tensor,
    ) -> None:
        """Add prompts to the batch and generate the first token of each.

        Args:
            prompts: Token ids of each new prompt.
            inputs: Arguments of the model's `forward`, padded on the right, with a cache if the
                prefixes of the prompts have been computed.
            last: Position of each prompt's last token in `input_ids` [new rows].
            offsets: Difference between position and index of the next token [new rows].
        """
        cache = inputs.get("past_key_values", DynamicCache())
        with logits_at(self._model, last):
            output = self._model(**{**inputs, "past_key_values": cache}, use_cache=True)
        first = output.logits[:, 0].float().argmax(dim=-1)
        self._cache.append(cache, n_rows=len(self))
        self._lengths = torch.cat([self._lengths, inputs["attention_mask"].sum(dim=1)])
        self._offsets = torch.cat([self._offsets, offsets])
        self._prompts += prompts
        self.generated += [[token] for token in first.tolist()]
        for prompt in prompts:
            self._drafts.add(prompt)

    @torch.inference_mode()
    def decode(self) -> None:
        """Generate one token of each sequence, plus the draft tokens that are accepted."""
        suffixes = [self._suffix(row) for row in range(len(self))]
        drafts = self._drafts.propose(suffixes)
        width = max(map(len, drafts))
        inputs = [
            [suffix[-1], *draft, *[_NO_TOKEN] * (width - len(draft))]
            for suffix, draft in zip(suffixes, drafts, strict=True)
        ]
        tokens = torch.tensor(inputs, device=self._lengths.device)  # [rows, 1 + width]
        outputs = self._next_tokens(tokens)
        matches = outputs[:, :-1] == tokens[:, 1:]  # [rows, width]
        n_accepted = matches.cumprod(dim=1).sum(dim=1)  # [rows]
        self._lengths = self._lengths + n_accepted + 1
        for row, (found, n) in enumerate(zip(outputs.tolist(), n_accepted.tolist(), strict=True)):
            self.generated[row] += found[: n + 1]
            self._drafts.add([*suffixes[row], *found[: n + 1]], len(suffixes[row]))
        self._drafts.update_acceptance(n_accepted.tolist(), width)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows and remove all others."""
        index = torch.tensor(rows, dtype=torch.long, device=self._lengths.device)
        self._cache.select(index)
        self._lengths, self._offsets = self._lengths[index], self._offsets[index]
        self._prompts = [self._prompts[row] for row in rows]
        self.generated = [self.generated[row] for row in rows]

    def _next_tokens(self, tokens: Tensor) -> Tensor:
        """Return the model's next token after each of the tokens, both [rows, n]."""
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        indices = self._lengths.unsqueeze(1) + steps  # [rows, n]
        length = int(self._lengths.max()) + tokens.shape[1]
        self._cache.prepare(indices, length)
        output = self._model(
            input_ids=tokens.clamp(min=0),
            position_ids=indices + self._offsets.unsqueeze(1),
            attention_mask=self._masks(indices, length),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits  # [rows, n, vocabulary]
        return logits.float().argmax(dim=-1)

    def _masks(self, indices: Tensor, length: int) -> Tensor | dict[str, Tensor]:
        """Return the additive mask [rows, 1, n, length], or one for each kind of layer."""
        distances = indices.unsqueeze(2) - torch.arange(length, device=indices.device)
        dtype = self._model.dtype

        def additive(hidden: Tensor) -> Tensor:
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            return mask.masked_fill(hidden, torch.finfo(dtype).min).unsqueeze(1)

        hidden = {"full_attention": distances < 0}
        if self._support.window:
            outside = distances >= self._support.window
            hidden["sliding_attention"] = hidden["full_attention"] | outside
        if len(self._support.layer_types) == 1:
            return additive(hidden[next(iter(self._support.layer_types))])
        return {kind: additive(tokens) for kind, tokens in hidden.items()}

    def _suffix(self, row: int) -> list[int]:
        """Return the last tokens of a sequence, those of its prompt included."""
        generated = self.generated[row][-MAX_NGRAM:]
        if len(generated) == MAX_NGRAM:
            return generated
        return [*self._prompts[row][len(generated) - MAX_NGRAM :], *generated]


class KeyValueCache:
    """Preallocated keys and values of sequences of different lengths.

    Passed to the model in place of a Transformers cache.

    Args:
        transpose_keys: Store keys in the memory layout in which eager attention multiplies them,
            [rows, heads, head size, positions]. In bfloat16 on a CPU, this halves the time of
            attention for a single token, since other layouts are copied first.
    """

    def __init__(self, *, transpose_keys: bool) -> None:
        self._transpose_keys = transpose_keys
        # Keys and values of each layer [capacity, heads, positions, head size].
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._n_rows = 0
        self._positions = torch.zeros(0)
        self._length = 0

    def append(self, cache: DynamicCache, *, n_rows: int) -> None:
        """Add the rows of a cache after the first `n_rows` rows."""
        new = [(layer.keys, layer.values) for layer in cache.layers]
        rows, _, length, _ = new[0][0].shape
        self._reserve(n_rows + rows, length, like=new)
        self._n_rows = n_rows + rows
        for layer, added in zip(self._layers, new, strict=True):
            for buffer, states in zip(layer, added, strict=True):
                buffer[n_rows : self._n_rows, :, :length] = states

    def prepare(self, positions: Tensor, length: int) -> None:
        """Set the positions of the next tokens [rows, n], all of them less than `length`."""
        self._reserve(self._n_rows, length, like=self._layers)
        self._positions, self._length = positions, length

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens and return those of all tokens."""
        rows = torch.arange(self._n_rows, device=keys.device).unsqueeze(1)
        layer = self._layers[layer_idx]
        for buffer, states in zip(layer, (keys, values), strict=True):
            buffer[rows, :, self._positions] = states.transpose(1, 2)
        all_keys, all_values = (buffer[: self._n_rows, :, : self._length] for buffer in layer)
        return all_keys, all_values

    def select(self, rows: Tensor) -> None:
        """Keep these rows, moved to the front, and remove all others."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for layer in self._layers:
            for buffer in layer:
                buffer[moved] = buffer[rows[moved]]
        self._n_rows = len(rows)

    def _reserve(self, n_rows: int, length: int, *, like: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Grow the buffers to at least this size, with the shape, dtype and device of `like`."""
        capacity = self._layers[0][0].shape if self._layers else (0, 0, 0)
        if n_rows <= capacity[0] and length <= capacity[2]:
            return
        n_rows, length = max(n_rows, capacity[0]), max(length + _GROWTH, capacity[2])
        layers = []
        for index, (keys, values) in enumerate(like):
            buffers = (
                _allocate(keys, n_rows, length, transpose=self._transpose_keys),
                _allocate(values, n_rows, length, transpose=False),
            )
            if self._layers:
                for buffer, old in zip(buffers, self._layers[index], strict=True):
                    buffer[: capacity[0], :, : capacity[2]] = old
            layers.append(buffers)
        self._layers = layers


def _allocate(like: Tensor, n_rows: int, length: int, *, transpose: bool) -> Tensor:
    """Return zeros [rows, heads, positions, head size], perhaps as a transposed view."""
    _, heads, _, size = like.shape
    if transpose:
        return like.new_zeros(n_rows, heads, size, length).transpose(2, 3)
    return like.new_zeros(n_rows, heads, length, size)
