"""Baseline "released": reimplementation of the computations in the paper's published code.

Scoring processes batches of six pairs in the order of the table, encodes the image again for every
pair, and generates thirty tokens, of which it only uses the logits of the first. Captions are
generated in batches of six, padded to the longest, and preferences for one user after another.
Fine-tuning has one example per step, computes the loss over the whole prompt, and encodes the
images in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from benchmarks._transformers_model import Autocast, TransformersModel, batched, fine_tune
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.ranker.examples import Example
from mllm_msr.types import ChoiceScores, Completion, Prompt

_BATCH_SIZE: Final = 6
_NEW_TOKENS: Final = 30


@final
class Released(Backend):
    """Inference of the released code.

    Every scored answer has thirty tokens, as from a model that was not trained to end its answer.

    Args:
        loaded: The checkpoint.
        answer_ids: Token ids of the choices, in the order in which `score` gets them.
        generation_batch: Number of prompts per batch of `generate`; 1 for preferences.
        new_tokens: Number of tokens that `score` generates per answer.
    """

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        *,
        answer_ids: Sequence[int],
        generation_batch: int = _BATCH_SIZE,
        new_tokens: int = _NEW_TOKENS,
    ) -> None:
        self._model = TransformersModel(loaded)
        self._answer_ids = list(answer_ids)
        self._generation_batch = generation_batch
        self._new_tokens = new_tokens

    @property
    def fingerprint(self) -> str:
        """Return the name of this baseline."""
        return "released"

    @property
    def capabilities(self) -> Capabilities:
        """Return support for images and choices."""
        return Capabilities(images=True, choices=True, adapters=False)

    @torch.no_grad()
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Generate answers in batches, in the order of the prompts."""
        for batch in batched(enumerate(prompts), self._generation_batch):
            inputs = self._model.inputs([prompt for _, prompt in batch])
            limit = max(prompt.max_new_tokens for _, prompt in batch)
            output = self._model.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
            answers = self._model.completions(output, inputs)
            yield from zip((index for index, _ in batch), answers, strict=True)

    @torch.no_grad()
    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Generate answers, and score the choices by the logits of the first token."""
        del choices
        for batch in batched(enumerate(prompts), _BATCH_SIZE):
            inputs = self._model.inputs([prompt for _, prompt in batch])
            output = self._model.model.generate(
                **inputs,
                min_new_tokens=self._new_tokens,
                max_new_tokens=self._new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
            log_probs = output.logits[0].float().log_softmax(-1)[:, self._answer_ids]
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            for (index, _), row, n in zip(batch, log_probs.tolist(), lengths, strict=True):
                yield index, ChoiceScores(tuple(row), prompt_tokens=n)

    def close(self) -> None:
        """Do nothing: the model is shared with the other baseline."""


def train_released(
    model: Any,
    loaded: LoadedCheckpoint,
    examples: Sequence[Example],
    *,
    learning_rate: float,
    autocast: Autocast,
) -> list[float]:
    """Fine-tune with one example per step; see `fine_tune`."""
    transformers_model = TransformersModel(loaded)

    def compute_loss(batch: Sequence[Example]) -> Tensor:
        inputs = transformers_model.inputs(
            [example.prompt for example in batch], answers=[example.answer for example in batch]
        )
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        loss: Tensor = model(**inputs, labels=labels).loss
        return loss

    batches = [[example] for example in examples]
    return fine_tune(model, batches, compute_loss, learning_rate=learning_rate, autocast=autocast)
