"""Inputs of a batch: whole prompts, or the suffixes after prefixes whose states are known.

An image of a prefix is encoded once. Images that follow prefixes, and those of models that cannot
share prefixes, are encoded once, too: their features are cached and replace the pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor

from mllm_msr.inference.engine.prefix_cache import PrefixCache
from mllm_msr.inference.engine.prefix_sharing import PrefixStates, prefix_key, split_prefix
from mllm_msr.inference.engine.scheduling import Request
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.last_token import logits_at
from mllm_msr.models.states import StateReader, States
from mllm_msr.models.vision_cache import VisionCache

_FEATURE_BYTES: Final = 512 * 2**20


class BatchInputs:
    """Inputs of a model's `forward`, on its device and with images in its precision.

    Args:
        model: A causal language model of Transformers.
        renderer: The model's renderer.
        reader: Reads and makes caches of the model.
        cache: Cache of prefixes across calls.
        image_token_id: Placeholder id of image tokens.
        reuses_features: Whether features of images in whole prompts are cached if the model accepts
            them, as those of images that follow prefixes are.
    """

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        *,
        reader: StateReader,
        cache: PrefixCache,
        image_token_id: int | None,
        reuses_features: bool,
    ) -> None:
        self._model = model
        self._renderer = renderer
        self._reader = reader
        self._cache = cache
        self._states = PrefixStates(cache)
        self._image_token_id = image_token_id
        self._reuses_features = reuses_features
        self._accepts_features = True
        self._features: VisionCache | None = None  # opened with the first image

    def clear_window(self) -> None:
        """Remove the states of the previous batch."""
        self._states.clear()

    def clear(self) -> None:
        """Remove all states and features."""
        self._states.clear()
        self._cache.clear()
        self._features = None

    def padded(
        self, prompts: Sequence[Rendered], pad_side: Literal["left", "right"]
    ) -> dict[str, Any]:
        """Return the inputs of prompts with pixels, padded to equal length."""
        inputs = self._renderer.collate(prompts, pad_side=pad_side, with_answers=False)
        dtype = self._model.dtype
        return {
            name: tensor.to(self._model.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def of_prompts(self, batch: Sequence[Request]) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Return the inputs of whole prompts, and of each its last index and position offset."""
        # With padding on the right, every kind of model uses the positions of the prompt alone.
        prompts = [request.rendered for request in batch]
        inputs = self.padded(prompts, "right")
        if self._reuses_features:
            inputs = self._with_features(inputs, prompts)
        offsets = self._reader.offsets(inputs)
        return inputs, inputs["attention_mask"].sum(dim=1) - 1, offsets

    def of_suffixes(self, batch: Sequence[Request]) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Return the same for the suffixes after shared prefixes, whose states are computed."""
        n_shared = batch[0].n_shared
        prompts = [request.rendered for request in batch]
        split = functools.partial(split_prefix, image_token_id=self._image_token_id)
        prefixes, suffixes = zip(*(split(prompt, n_shared) for prompt in prompts), strict=True)

        def prefill(rows: Sequence[int]) -> States:
            cache = self._reader.new_cache()
            inputs = self.padded([prefixes[row] for row in rows], "right")
            last = inputs["attention_mask"].sum(dim=1) - 1
            with logits_at(self._model, last):
                self._model(**inputs, past_key_values=cache, use_cache=True)
            return self._reader.read(cache, self._reader.offsets(inputs))

        states = self._states.for_rows([prefix_key(prefix) for prefix in prefixes], prefill)
        inputs = self.padded(suffixes, "right")
        shown = [prompt for prompt, rest in zip(prompts, suffixes, strict=True) if rest.images]
        inputs = self._with_features(inputs, shown)
        mask, offsets = inputs["attention_mask"], states.offsets
        if self._reader.sets_positions and shown:
            whole = self.padded(prompts, "right")
            positions = self._reader.positions(whole)
            inputs["position_ids"] = None if positions is None else positions[..., n_shared:]
            offsets = self._reader.offsets(whole)
        elif self._reader.sets_positions:
            indices = torch.arange(n_shared, n_shared + mask.shape[1], device=mask.device)
            inputs["position_ids"] = indices + offsets.unsqueeze(1)  # [batch, suffix length]
        prefix_mask = mask.new_ones(len(batch), n_shared)
        inputs["attention_mask"] = torch.cat([prefix_mask, mask], dim=1)  # [batch, total length]
        inputs["past_key_values"] = self._reader.cache(states)
        return inputs, mask.sum(dim=1) - 1, offsets

    def _with_features(self, inputs: dict[str, Any], prompts: Sequence[Rendered]) -> dict[str, Any]:
        """Replace the pixels in inputs by the features of the prompts' images, if accepted."""
        shown = [prompt for prompt in prompts if prompt.images]
        if not self._accepts_features or not shown:
            return inputs
        if self._features is None:
            self._features = VisionCache.open(
                self._model, self._renderer, iter(shown), max_bytes=_FEATURE_BYTES
            )
            if self._features is None:
                self._accepts_features = False
                return inputs
        lean = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
        return lean | self._features.inputs(shown, together=True)
