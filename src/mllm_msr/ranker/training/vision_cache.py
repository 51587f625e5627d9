"""Features of images, computed once for each image while the vision tower stays as it is.

In training every image returns with many users and in every epoch, and encoding it costs more
than the language model does. Transformers' models take ready features through `forward`
(`mm_encoder_outputs`); models that do not are simply given the pixels again.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.ranker.training.lora import learns_language_only

_MAX_BYTES: Final = 2 * 2**30

# Inputs that describe the text; the others describe the images.
_TEXT_INPUTS: Final = frozenset(
    {"input_ids", "attention_mask", "labels", "position_ids", "token_type_ids", "mm_token_type_ids"}
)


class VisionCache:
    """Features by image, oldest dropped first when there is no more room.

    Args:
        model: The model that is trained, on its device.
        renderer: Its renderer.
        max_bytes: Room for features.
    """

    def __init__(
        self, model: nn.Module, renderer: Renderer, *, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._model = model
        self._renderer = renderer
        self._room = max_bytes
        self._features: dict[Path, Tensor] = {}
        self._one_tensor = False

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether a model takes ready features and its vision tower does not learn."""
        inner: Any = getattr(model, "get_base_model", lambda: model)()
        takes = "mm_encoder_outputs" in inspect.signature(inner.forward).parameters
        return takes and hasattr(inner, "get_image_features") and learns_language_only(model)

    def inputs(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        """What `forward` takes in place of the pixels of some rows; empty without images.

        Args:
            rows: Rendered prompts of at most one image each.
        """
        features: Any = tuple(self._of(row) for row in rows if row.images)
        if not features:
            return {}
        if self._one_tensor:
            features = torch.cat(features)
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}

    def _of(self, row: Rendered) -> Tensor:
        """Features of a row's image: [tokens, hidden]."""
        (path,) = row.images
        known = self._features.get(path)
        if known is None:
            known = self._encode(row)
            self._keep(path, known)
        return known

    def _encode(self, row: Rendered) -> Tensor:
        device = next(self._model.parameters()).device
        batch = self._renderer.collate([row], pad_side="right", with_answers=False)
        images = {k: v.to(device) for k, v in batch.items() if k not in _TEXT_INPUTS}
        model: Any = self._model
        with torch.no_grad():
            features = model.get_image_features(**images, return_dict=True).pooler_output
        # Some models hand all images' features on as one tensor, others as one for each.
        self._one_tensor = isinstance(features, Tensor)
        return torch.cat(tuple(features))

    def _keep(self, path: Path, features: Tensor) -> None:
        while self._features and self._room < features.nbytes:
            self._room += self._features.pop(next(iter(self._features))).nbytes
        if self._room >= features.nbytes:
            self._features[path] = features
            self._room -= features.nbytes
