"""Image encoders of Transformers: CLIP, SigLIP, ViT, ResNet and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import torch
import transformers
from PIL import Image

from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.checkpoint import EncoderCheckpoint


@final
class TransformersImageEncoder:
    """An image encoder of Transformers.

    Models with a joint space of images and texts (CLIP, SigLIP) return vectors of that space. For
    other models the last hidden states are averaged over patches (ViT) or positions (ResNet).

    Args:
        name: Folder, or hub id with an optional `@revision`.

    Raises:
        BackendError: There is no such checkpoint.
    """

    max_side: Final = 512

    def __init__(self, name: str) -> None:
        self._checkpoint = EncoderCheckpoint(name)
        self._loaded: tuple[Any, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights and the pooling."""
        return f"image/1/{self._checkpoint.fingerprint}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode images; the weights are loaded by the first call.

        Returns:
            Shape [n_images, d_image].

        Raises:
            BackendError: The weights cannot be loaded.
        """
        if self._loaded is None:
            # The "pil" backend prepares images like the rest of the package, without torchvision.
            processor = self._checkpoint.load(transformers.AutoImageProcessor, backend="pil")
            self._loaded = processor, self._checkpoint.load_model()
        processor, model = self._loaded
        inputs = processor(images=list(images), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            if hasattr(model, "get_image_features"):
                pooled = model.get_image_features(**inputs).pooler_output
            else:
                states = model(**inputs).last_hidden_state
                # [n, patches, hidden] or [n, channels, height, width]
                pooled = states.mean(dim=1) if states.ndim == 3 else states.flatten(2).mean(dim=2)
        vectors: Vectors = pooled.float().cpu().numpy()
        return vectors
