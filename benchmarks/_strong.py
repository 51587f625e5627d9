"""Baseline "strong": well-written Transformers code that shares no work between prompts.

Prompts are sorted by length and split into batches. Scoring takes one forward pass per batch, and
computes only the logits of the last position. Fine-tuning has batches of similar lengths, and
computes only the logits and the loss of the answer. Preferences of all users are generated
together, block by block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

from benchmarks._transformers_model import (
    Autocast,
    TransformersModel,
    batched,
    fine_tune,
    has_image,
)
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.ranker.examples import Example
from mllm_msr.types import ChoiceScores, Completion, Prompt


@final
class Strong(Backend):
    """Batched inference.

    Args:
        loaded: The checkpoint.
        answer_ids: Token ids of the choices, in the order in which `score` gets them.
        batch_size: Number of prompts per batch.
    """

    def __init__(
        self, loaded: LoadedCheckpoint, *, answer_ids: Sequence[int], batch_size: int
    ) -> None:
        self._model = TransformersModel(loaded)
        self._answer_ids = list(answer_ids)
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """Return the name of this baseline."""
        return "strong"

    @property
    def capabilities(self) -> Capabilities:
        """Return support for images and choices."""
        return Capabilities(images=True, choices=True, adapters=False)

    @torch.inference_mode()
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Generate answers in batches of similar lengths."""
        for batch in self._batches(prompts):
            inputs = self._model.inputs([prompt for _, prompt in batch])
            output = self._model.model.generate(
                **inputs, max_new_tokens=batch[0][1].max_new_tokens, do_sample=False
            )
            answers = self._model.completions(output, inputs)
            yield from zip((index for index, _ in batch), answers, strict=True)

    @torch.inference_mode()
    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score the choices by the logits of the last position, with one pass per batch."""
        del choices
        for batch in self._batches(prompts):
            inputs = self._model.inputs([prompt for _, prompt in batch])
            logits = self._model.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            log_probs = logits.float().log_softmax(-1)[:, self._answer_ids]
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            for (index, _), row, n in zip(batch, log_probs.tolist(), lengths, strict=True):
                yield index, ChoiceScores(tuple(row), prompt_tokens=n)

    def close(self) -> None:
        """Do nothing: the model is shared with the other baseline."""

    def _batches(self, prompts: Iterable[Prompt]) -> Iterator[list[tuple[int, Prompt]]]:
        """Yield batches with the same modality and token limit, sorted by decreasing length."""

        def group(indexed: tuple[int, Prompt]) -> tuple[bool, int]:
            return has_image(indexed[1]), indexed[1].max_new_tokens

        def length(indexed: tuple[int, Prompt]) -> tuple[bool, int, int]:
            return *group(indexed), len(self._model.text(indexed[1]))

        ordered = sorted(enumerate(prompts), key=length, reverse=True)
        for _, similar in itertools.groupby(ordered, key=group):
            yield from batched(similar, self._batch_size)


def train_strong(
    model: Any,
    loaded: LoadedCheckpoint,
    batches: Sequence[Sequence[Example]],
    *,
    learning_rate: float,
    autocast: Autocast,
) -> list[float]:
    """Fine-tune on batches of similar lengths; see `fine_tune`."""
    transformers_model = TransformersModel(loaded)

    def compute_loss(batch: Sequence[Example]) -> Tensor:
        inputs = transformers_model.inputs(
            [example.prompt for example in batch], answers=[example.answer for example in batch]
        )
        # With left padding, the answer is the last token, predicted by the position before it.
        logits = model(**inputs, use_cache=False, logits_to_keep=2).logits[:, -2]
        return torch.nn.functional.cross_entropy(logits.float(), inputs["input_ids"][:, -1])

    return fine_tune(model, batches, compute_loss, learning_rate=learning_rate, autocast=autocast)
