"""The demo model as text and image encoder; only useful for its own synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import torch
from PIL import Image

from mllm_msr.demo_model import weights_folder
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.transformers_text import mean_pooled
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.storage.atomic import content_hash

_MAX_TOKENS: Final = 256


class _DemoModel:
    """The demo model's weights, loaded on demand."""

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    @property
    def weights_hash(self) -> str:
        """Return the content hash of the weights."""
        return content_hash(weights_folder())[0]

    def load(self) -> LoadedCheckpoint:
        """Load the model in float32 unless it is loaded already, and return it."""
        if self._loaded is None:
            self._loaded = load_model(str(weights_folder()), dtype="float32")
        return self._loaded


@final
class DemoTextEncoder:
    """The demo model's language part: the mean of its last hidden states over a text's tokens."""

    def __init__(self) -> None:
        self._model = _DemoModel()

    @property
    def fingerprint(self) -> str:
        """Return the weights and the pooling."""
        return f"text/1/{self._model.weights_hash}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts.

        Returns:
            Shape [n_texts, hidden].
        """
        loaded = self._model.load()
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        language_model = loaded.model.model.language_model
        return mean_pooled(language_model, tokenizer, texts, max_tokens=_MAX_TOKENS)


@final
class DemoImageEncoder:
    """The demo model's vision part: the mean of the image tokens that the language part reads."""

    max_side: Final = 512

    def __init__(self) -> None:
        self._model = _DemoModel()

    @property
    def fingerprint(self) -> str:
        """Return the weights and the pooling."""
        return f"image/1/{self._model.weights_hash}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode images.

        Returns:
            Shape [n_images, hidden].
        """
        loaded = self._model.load()
        processor = loaded.processor.image_processor
        inputs = processor(images=list(images), return_tensors="pt").to(loaded.model.device)
        with torch.inference_mode():
            features = loaded.model.get_image_features(**inputs, return_dict=True).pooler_output
        # A list of [tokens, hidden], or one tensor [n, tokens, hidden].
        pooled = torch.stack([tokens.mean(dim=0) for tokens in features])
        vectors: Vectors = pooled.float().cpu().numpy()
        return vectors
