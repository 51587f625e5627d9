"""The demo model's language part as text encoder; only useful for its own synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from mllm_msr.demo_model import weights_folder
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.transformers_text import mean_pooled
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.storage.atomic import content_hash

_MAX_TOKENS: Final = 256


@final
class DemoTextEncoder:
    """The mean of the demo model's last hidden states over a text's tokens."""

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights and the pooling."""
        return f"text/1/{content_hash(weights_folder())[0]}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; the weights are loaded by the first call.

        Returns:
            Shape [n_texts, hidden].
        """
        self._loaded = loaded = self._loaded or load_model(str(weights_folder()), dtype="float32")
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        language_model = loaded.model.model.language_model
        return mean_pooled(language_model, tokenizer, texts, max_tokens=_MAX_TOKENS)
