"""Text encoders of Transformers: mean pooling, or the last token for decoders.

Encoders such as BERT are averaged over the tokens of a text, as sentence-transformers does by
default. Embedding models that are decoders, such as Qwen3-Embedding and Qwen3-VL-Embedding, are
trained so that the state of the last token represents the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

import numpy as np
import torch
import transformers
from torch import Tensor

from mllm_msr.models.encoders.base import Vectors, unit_rows
from mllm_msr.models.encoders.checkpoint import EncoderCheckpoint
from mllm_msr.models.inputs import Renderer
from mllm_msr.types import Message, Prompt, TextPart

_BATCH: Final = 64
# Instruction for which multimodal embedding models are trained if no task is given.
_INSTRUCTION: Final = "Represent the user's input."

# Turns texts into `input_ids` and `attention_mask`, and pools the states [batch, length, hidden] of
# the tokens that a mask [batch, length] selects.
_Prepare = Callable[[Sequence[str]], dict[str, Tensor]]
_Pool = Callable[[Tensor, Tensor], Tensor]


@final
class TransformersTextEncoder:
    """A text encoder of Transformers: one vector from the last hidden states of a text's tokens.

    Multimodal decoders read the text as the turn of a user, in their chat template.

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
        self._loaded: tuple[Any, _Prepare] | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights, their precision and the pooling."""
        scale = "unit" if self._unit_length else "raw"
        pooling = "/last" if self._checkpoint.is_decoder else ""
        weights = f"{self._checkpoint.fingerprint}/{self._dtype}"
        return f"text/1/{weights}/{self._max_tokens}/{scale}{pooling}"

    def load(self) -> None:
        """Load the weights unless they are loaded already.

        Raises:
            BackendError: The weights cannot be loaded.
        """
        if self._loaded is not None:
            return
        checkpoint = self._checkpoint
        if checkpoint.reads_images:
            prepare = _in_chat_template(checkpoint.load_processor(), self._max_tokens)
        else:
            tokenizer = checkpoint.load(transformers.AutoTokenizer)
            prepare = _tokenized(tokenizer, self._max_tokens)
        self._loaded = checkpoint.load_model(dtype=self._dtype, device=self._device), prepare

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; the weights are loaded by the first call.

        Returns:
            Shape [n_texts, hidden].

        Raises:
            BackendError: The weights cannot be loaded.
        """
        self.load()
        assert self._loaded is not None
        model, prepare = self._loaded
        pool = _last if self._checkpoint.is_decoder else _mean
        vectors = _pooled(model, texts, prepare, pool)
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
    return _pooled(model, texts, _tokenized(tokenizer, max_tokens), _mean)


def _pooled(model: Any, texts: Sequence[str], prepare: _Prepare, pool: _Pool) -> Vectors:
    if not texts:
        hidden = int(model.config.get_text_config().hidden_size)
        return np.zeros((0, hidden), dtype=np.float32)
    # Texts of similar length share a batch, which reduces padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts: list[Vectors] = []
    for start in range(0, len(order), _BATCH):
        prepared = prepare([texts[index] for index in order[start : start + _BATCH]])
        inputs = {name: tensor.to(model.device) for name, tensor in prepared.items()}
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state  # [batch, length, hidden]
        parts.append(pool(states, inputs["attention_mask"]).float().cpu().numpy())
    vectors = np.concatenate(parts)
    return vectors[np.argsort(order)]


def _tokenized(tokenizer: Any, max_tokens: int) -> _Prepare:
    """Return a function that tokenizes texts as they are."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = min(max_tokens, tokenizer.model_max_length)

    def prepare(texts: Sequence[str]) -> dict[str, Tensor]:
        return dict(
            tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=limit,
                split_special_tokens=True,
                return_tensors="pt",
            )
        )

    return prepare


def _in_chat_template(processor: Any, max_tokens: int) -> _Prepare:
    """Return a function that renders texts as turns of a user after the instruction."""
    renderer = Renderer(processor, supports_images=False)
    system = Message("system", (TextPart(_INSTRUCTION),))

    def render(text: str) -> Any:
        user = Message("user", (TextPart(text, trimmable=1),))
        return renderer.render(Prompt((system, user), max_text_tokens=max_tokens))

    def prepare(texts: Sequence[str]) -> dict[str, Tensor]:
        return renderer.collate(list(map(render, texts)), pad_side="right", with_answers=False)

    return prepare


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _last(states: Tensor, mask: Tensor) -> Tensor:
    """Return the state of the last token of each row, with padding on either side."""
    positions = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), positions]
