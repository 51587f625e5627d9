"""Cache of image features for training with a frozen vision tower.

In training, every image occurs with many users and in every epoch, and encoding it costs more than
the language model does. Transformers models accept precomputed features in `forward`
(`mm_encoder_outputs`); other models get the pixels every time.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from cachetools import LRUCache
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.ranker.training.lora import learns_language_only

_MAX_BYTES: Final = 2 * 2**30

# Inputs that describe the text; all others describe the images.
_TEXT_INPUTS: Final = frozenset(
    {"input_ids", "attention_mask", "labels", "position_ids", "token_type_ids", "mm_token_type_ids"}
)


class VisionCache:
    """Cache of image features by image file.

    Args:
        model: Model that is trained, on its device.
        renderer: Renderer of the model.
        max_bytes: Upper bound on the memory for features.
    """

    def __init__(
        self, model: nn.Module, renderer: Renderer, *, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._model = model
        self._renderer = renderer
        self._features: LRUCache[Path, Tensor] = LRUCache(
            max_bytes, getsizeof=lambda features: features.nbytes
        )
        self._one_tensor = False

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Check whether a model accepts precomputed features and its vision tower is frozen."""
        inner: Any = getattr(model, "get_base_model", lambda: model)()
        takes_features = "mm_encoder_outputs" in inspect.signature(inner.forward).parameters
        return (
            takes_features and hasattr(inner, "get_image_features") and learns_language_only(model)
        )

    def inputs(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        """Return the arguments of `forward` that replace the rows' pixels; empty without images.

        Args:
            rows: Rendered prompts with at most one image each.
        """
        features: Any = tuple(self._image_features(row) for row in rows if row.images)
        if not features:
            return {}
        if self._one_tensor:
            features = torch.cat(features)
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}

    def _image_features(self, row: Rendered) -> Tensor:
        """Return the features of a row's image, encoding it if necessary: [tokens, hidden]."""
        (path,) = row.images
        features = self._features.get(path)
        if features is None:
            features = self._encode(row)
            if features.nbytes <= self._features.maxsize:
                self._features[path] = features
        return features

    def _encode(self, row: Rendered) -> Tensor:
        device = next(self._model.parameters()).device
        batch = self._renderer.collate([row], pad_side="right", with_answers=False)
        images = {k: v.to(device) for k, v in batch.items() if k not in _TEXT_INPUTS}
        model: Any = self._model
        with torch.no_grad():
            features = model.get_image_features(**images, return_dict=True).pooler_output
        # Some models return the features of all images as one tensor, others one tensor per image.
        self._one_tensor = isinstance(features, Tensor)
        return torch.cat(tuple(features))
