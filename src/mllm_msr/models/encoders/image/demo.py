"""The demo model's vision part as image encoder; only useful for its own synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import torch
from PIL import Image

from mllm_msr.demo_model import weights_folder
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.storage.atomic import content_hash


@final
class DemoImageEncoder:
    """The mean of the image tokens that the demo model's language part reads."""

    max_side: Final = 512

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights and the pooling."""
        return f"image/1/{content_hash(weights_folder())[0]}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode images; the weights are loaded by the first call.

        Returns:
            Shape [n_images, hidden].
        """
        self._loaded = loaded = self._loaded or load_model(str(weights_folder()), dtype="float32")
        processor = loaded.processor.image_processor
        inputs = processor(images=list(images), return_tensors="pt").to(loaded.model.device)
        with torch.inference_mode():
            features = loaded.model.get_image_features(**inputs, return_dict=True).pooler_output
        # A list of [tokens, hidden], or one tensor [n, tokens, hidden].
        pooled = torch.stack([tokens.mean(dim=0) for tokens in features])
        vectors: Vectors = pooled.float().cpu().numpy()
        return vectors
