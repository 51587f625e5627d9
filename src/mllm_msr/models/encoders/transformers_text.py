"""Text encoders of Transformers, such as BERT: mean pooling over the tokens of a text.

This is what sentence-transformers does by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import torch
import transformers

from mllm_msr.models.encoders.base import Vectors, unit_rows
from mllm_msr.models.encoders.checkpoint import EncoderCheckpoint

_BATCH: Final = 64


@final
class TransformersTextEncoder:
    """A text encoder of Transformers: the mean of the last hidden states over a text's tokens.

    Args:
        name: Folder, or hub id with an optional `@revision`.
        max_tokens: Maximum length of a text in tokens; longer texts are truncated.
        unit_length: Whether vectors are scaled to unit length.
        dtype: Precision of the weights, "auto" for that of the checkpoint.
        device: A torch device; None for the first GPU, or the CPU if there is none.

    Raises:
        BackendError: There is no such checkpoint.
    """

    def __init__(
        self,
        name: str,
        *,
        max_tokens: int = 256,
        unit_length: bool = False,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        self._checkpoint = EncoderCheckpoint(name)
        self._max_tokens = max_tokens
        self._unit_length = unit_length
        self._dtype = dtype
        self._device = device
        self._loaded: tuple[Any, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights, their precision and the pooling."""
        scale = "unit" if self._unit_length else "raw"
        return f"text/1/{self._checkpoint.fingerprint}/{self._dtype}/{self._max_tokens}/{scale}"

    def load(self) -> tuple[Any, Any]:
        """Load model and tokenizer unless they are loaded already, and return them.

        Raises:
            BackendError: The weights cannot be loaded.
        """
        if self._loaded is None:
            tokenizer = self._checkpoint.load(transformers.AutoTokenizer)
            model = self._checkpoint.load_model(dtype=self._dtype, device=self._device)
            self._loaded = model, tokenizer
        return self._loaded

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; the weights are loaded by the first call.

        Returns:
            Shape [n_texts, hidden].

        Raises:
            BackendError: The weights cannot be loaded.
        """
        model, tokenizer = self.load()
        vectors = mean_pooled(model, tokenizer, texts, max_tokens=self._max_tokens)
        return unit_rows(vectors) if self._unit_length else vectors


def mean_pooled(model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> Vectors:
    """Average the last hidden states over the tokens of each text.

    Args:
        model: A Transformers model that returns `last_hidden_state`.
        tokenizer: Its tokenizer.
        texts: Any texts.
        max_tokens: Maximum length of a text in tokens; the tokenizer's own limit also applies.

    Returns:
        Shape [n_texts, hidden].
    """
    if not texts:
        hidden = int(model.config.get_text_config().hidden_size)
        return np.zeros((0, hidden), dtype=np.float32)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = min(max_tokens, tokenizer.model_max_length)
    # Texts of similar length share a batch, which reduces padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts: list[Vectors] = []
    for start in range(0, len(order), _BATCH):
        inputs = tokenizer(
            [texts[index] for index in order[start : start + _BATCH]],
            padding=True,
            truncation=True,
            max_length=limit,
            split_special_tokens=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state  # [batch, length, hidden]
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        parts.append(means.float().cpu().numpy())
    vectors = np.concatenate(parts)
    return vectors[np.argsort(order)]
