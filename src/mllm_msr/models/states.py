"""States of a model after a prefix: keys and values, or the states of recurrent layers.

Used by the inference engine and by training. The states of several prefixes are rows of one batch:
they are computed together, selected for the prompts that follow, and extended by the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from mllm_msr.models.prefix_support import prefix_support


@dataclass(frozen=True, slots=True)
class States:
    """States of a model after some prefixes of equal length.

    Attributes:
        layers: For each layer, keys and values [prefixes, heads, tokens, head size], or the tensors
            of a recurrent layer [prefixes, ...].
        offsets: Difference between the position of the next token and its index [prefixes]; not
            zero for models that give all tokens of an image few positions.
    """

    layers: Sequence[tuple[Tensor, ...]]
    offsets: Tensor

    @property
    def n_bytes(self) -> int:
        """Return the size of the tensors in bytes."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)

    def select(self, rows: Sequence[int]) -> States:
        """Return copies of some rows, possibly repeated."""
        index = torch.tensor(rows, device=self.offsets.device)
        layers = [tuple(tensor[index] for tensor in layer) for layer in self.layers]
        return States(layers, self.offsets[index])

    def row(self, index: int) -> States:
        """Return one row, which shares memory with the others."""
        layers = [tuple(tensor[index : index + 1] for tensor in layer) for layer in self.layers]
        return States(layers, self.offsets[index : index + 1])

    def copy(self) -> States:
        """Return a copy of all tensors."""
        layers = [tuple(tensor.clone() for tensor in layer) for layer in self.layers]
        return States(layers, self.offsets.clone())

    def cut(self, n_tokens: int) -> States:
        """Copy the first tokens, so that the memory of the others can be freed.

        Args:
            n_tokens: Number of tokens to keep. States of recurrent layers must not be cut.
        """
        layers = [tuple(tensor[:, :, :n_tokens].clone() for tensor in one) for one in self.layers]
        return States(layers, self.offsets.clone())

    @staticmethod
    def concatenate(parts: Sequence[States]) -> States:
        """Concatenate the rows of at least one batch, without a copy if there is only one."""
        if len(parts) == 1:
            return parts[0]
        layers = [
            tuple(torch.cat(tensors) for tensors in zip(*same, strict=True))
            for same in zip(*(part.layers for part in parts), strict=True)
        ]
        return States(layers, torch.cat([part.offsets for part in parts]))


class StateReader:
    """Converts between the caches of a model and `States`.

    Args:
        model: A causal language model of Transformers.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._config = config.get_text_config()
        self._is_recurrent = prefix_support(config).is_recurrent
        self._recurrent: dict[int, Any] = {}  # a layer as an example of each recurrent layer
        self._rope_index = _rope_index(model)

    @property
    def sets_positions(self) -> bool:
        """Return whether the position of a token may differ from its index."""
        return self._rope_index is not None

    @property
    def can_cut(self) -> bool:
        """Return whether states can be cut to fewer tokens."""
        return not self._is_recurrent

    def new_cache(self) -> DynamicCache:
        """Return an empty cache that keeps the keys and values of all tokens."""
        if not self._is_recurrent:
            return DynamicCache()
        cache = DynamicCache(config=self._config)
        cache.layers = [
            layer if isinstance(layer, LinearAttentionCacheLayerMixin) else DynamicLayer()
            for layer in cache.layers
        ]
        return cache

    def positions(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Return the positions of all tokens of a batch, or None if they are the tokens' indices.

        Args:
            inputs: Inputs of the model's `forward` for whole prompts; features are ignored.

        Returns:
            Positions in several dimensions [dimensions, batch, length].
        """
        return None if self._is_index(inputs) else self._rope_index(**_without_pixels(inputs))[0]

    def offsets(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the difference between position and index after each prompt of a batch [batch].

        Args:
            inputs: Inputs of the model's `forward` for whole prompts or for prefixes that contain
                all images of the prompt.
        """
        ids: Tensor = inputs["input_ids"]
        if self._is_index(inputs):
            return ids.new_zeros(len(ids))
        offsets: Tensor = self._rope_index(**_without_pixels(inputs))[1][:, 0]
        return offsets

    def _is_index(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether the positions of all tokens are their indices, as without images."""
        return not self.sets_positions or "mm_token_type_ids" not in inputs

    def read(self, cache: DynamicCache, offsets: Tensor) -> States:
        """Return the states in a cache."""
        layers: list[tuple[Tensor, ...]] = []
        for index, layer in enumerate(cache.layers):
            if not isinstance(layer, LinearAttentionCacheLayerMixin):
                layers.append((layer.keys, layer.values))
                continue
            self._recurrent.setdefault(index, layer)
            layers.append(tuple(_initialized(layer.conv_states, layer.recurrent_states)))
        return States(layers, offsets)

    def cache(self, states: States) -> DynamicCache:
        """Return a cache with states, which the model may extend.

        The model changes the states of recurrent layers in place; all others are copied when they
        grow.

        Args:
            states: States that `read` returned, or rows of them.
        """
        if not self._is_recurrent:
            return DynamicCache(states.layers)
        cache = self.new_cache()
        for index, tensors in enumerate(states.layers):
            if index not in self._recurrent:
                cache.layers[index].update(*tensors)
                continue
            layer, remaining = copy.copy(self._recurrent[index]), iter(tensors)
            for name in ("conv_states", "recurrent_states"):
                kept = getattr(layer, name).items()
                filled = {k: None if old is None else next(remaining).clone() for k, old in kept}
                setattr(layer, name, filled)
            cache.layers[index] = layer
        return cache


def _without_pixels(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in inputs.items()
        if isinstance(value, Tensor) and not name.startswith("pixel_")
    }


def _rope_index(model: Any) -> Any:
    """Return the function with which a model computes positions; None for tokens' indices."""
    inner = getattr(model, "get_base_model", lambda: model)()  # without PEFT's wrapper
    parts = (inner, getattr(inner, "model", None))
    found = (getattr(part, "get_rope_index", None) for part in parts)
    return next((function for function in found if function is not None), None)


def _initialized(*states: Mapping[int, Tensor | None]) -> list[Tensor]:
    return [tensor for kind in states for tensor in kind.values() if tensor is not None]
