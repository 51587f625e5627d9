"""The strong way: what a good engineer writes with Transformers, without sharing among prompts.

All prompts are sorted by length and cut to batches, one forward pass reads an answer and makes
logits of the last position alone; fine-tuning makes batches of like lengths, reads the loss of
the answer alone and makes no logits elsewhere. Users advance abreast, as the stage hands them over.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

from benchmarks._plain import Autocast, PlainModel, batched, fine_tune, shows_image
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.ranker.examples import Example
from mllm_msr.types import ChoiceScores, Completion, Prompt


@final
class Strong(Backend):
    """Batched inference as a backend.

    Args:
        loaded: The checkpoint.
        answer_ids: Token ids of the choices, in the order in which `score` is asked for them.
        batch_size: Prompts in a batch.
    """

    def __init__(
        self, loaded: LoadedCheckpoint, *, answer_ids: Sequence[int], batch_size: int
    ) -> None:
        self._plain = PlainModel(loaded)
        self._answer_ids = list(answer_ids)
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """Name of this way."""
        return "strong"

    @property
    def capabilities(self) -> Capabilities:
        """Images and choices."""
        return Capabilities(images=True, choices=True, adapters=False)

    @torch.inference_mode()
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts of like lengths together."""
        for batch in self._batches(prompts):
            inputs = self._plain.inputs([prompt for _, prompt in batch])
            output = self._plain.model.generate(
                **inputs, max_new_tokens=batch[0][1].max_new_tokens, do_sample=False
            )
            answers = self._plain.completions(output, inputs)
            yield from zip((index for index, _ in batch), answers, strict=True)

    @torch.inference_mode()
    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """One forward pass for each batch, logits of its last position."""
        del choices
        for batch in self._batches(prompts):
            inputs = self._plain.inputs([prompt for _, prompt in batch])
            logits = self._plain.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            log_probs = logits.float().log_softmax(-1)[:, self._answer_ids]
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            for (index, _), row, n in zip(batch, log_probs.tolist(), lengths, strict=True):
                yield index, ChoiceScores(tuple(row), prompt_tokens=n)

    def close(self) -> None:
        """Nothing is held that others do not share."""

    def _batches(self, prompts: Iterable[Prompt]) -> Iterator[list[tuple[int, Prompt]]]:
        """Batches of like kind, bound and length, the longest first."""

        def kind(pair: tuple[int, Prompt]) -> tuple[bool, int]:
            return shows_image(pair[1]), pair[1].max_new_tokens

        def length(pair: tuple[int, Prompt]) -> tuple[bool, int, int]:
            return *kind(pair), len(self._plain.text(pair[1]))

        ordered = sorted(enumerate(prompts), key=length, reverse=True)
        for _, alike in itertools.groupby(ordered, key=kind):
            yield from batched(alike, self._batch_size)


def train_strong(
    model: Any,
    loaded: LoadedCheckpoint,
    batches: Sequence[Sequence[Example]],
    *,
    rate: float,
    autocast: Autocast,
) -> list[float]:
    """Fine-tune on batches of like lengths; see `fine_tune`."""
    plain = PlainModel(loaded)

    def loss(batch: Sequence[Example]) -> Tensor:
        inputs = plain.inputs([one.prompt for one in batch], answers=[one.answer for one in batch])
        # Padded on the left, every answer is the last token, told by the position before it.
        logits = model(**inputs, use_cache=False, logits_to_keep=2).logits[:, -2]
        return torch.nn.functional.cross_entropy(logits.float(), inputs["input_ids"][:, -1])

    return fine_tune(model, batches, loss, rate=rate, autocast=autocast)
