"""The released way, written anew: how the paper's published code spends its time.

Six pairs a batch in the order of the table, every image encoded again for every pair, thirty
tokens generated where the logits of the first are read; captions six at a time, padded to the
longest; preferences one user after another; fine-tuning one example at a time on the loss of the
whole prompt, images encoded in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from benchmarks._plain import Autocast, PlainModel, batched, fine_tune
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.ranker.examples import Example
from mllm_msr.types import ChoiceScores, Completion, Prompt

_BATCH: Final = 6
_NEW_TOKENS: Final = 30


@final
class Released(Backend):
    """The released code's inference as a backend.

    Thirty tokens are written for each answer, as by a model that was not taught to end one.

    Args:
        loaded: The checkpoint.
        answer_ids: Token ids of the choices, in the order in which `score` is asked for them.
        at_once: Prompts that `generate` takes together: 1 in the stage of preferences.
        new_tokens: Tokens generated to read one answer.
    """

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        *,
        answer_ids: Sequence[int],
        at_once: int = _BATCH,
        new_tokens: int = _NEW_TOKENS,
    ) -> None:
        self._plain = PlainModel(loaded)
        self._answer_ids = list(answer_ids)
        self._at_once = at_once
        self._new_tokens = new_tokens

    @property
    def fingerprint(self) -> str:
        """Name of this way."""
        return "released"

    @property
    def capabilities(self) -> Capabilities:
        """Images and choices."""
        return Capabilities(images=True, choices=True, adapters=False)

    @torch.no_grad()
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer in the order given."""
        for batch in batched(enumerate(prompts), self._at_once):
            inputs = self._plain.inputs([prompt for _, prompt in batch])
            bound = max(prompt.max_new_tokens for _, prompt in batch)
            output = self._plain.model.generate(**inputs, max_new_tokens=bound, do_sample=False)
            answers = self._plain.completions(output, inputs)
            yield from zip((index for index, _ in batch), answers, strict=True)

    @torch.no_grad()
    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Write an answer and look at its first token's logits."""
        del choices
        for batch in batched(enumerate(prompts), _BATCH):
            inputs = self._plain.inputs([prompt for _, prompt in batch])
            output = self._plain.model.generate(
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
        """Nothing is held that others do not share."""


def train_released(
    model: Any,
    loaded: LoadedCheckpoint,
    examples: Sequence[Example],
    *,
    rate: float,
    autocast: Autocast,
) -> list[float]:
    """Fine-tune on some examples, one a step, without a loader's workers; see `fine_tune`."""
    plain = PlainModel(loaded)

    def loss(batch: Sequence[Example]) -> Tensor:
        inputs = plain.inputs([one.prompt for one in batch], answers=[one.answer for one in batch])
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        found: Tensor = model(**inputs, labels=labels).loss
        return found

    return fine_tune(model, [[one] for one in examples], loss, rate=rate, autocast=autocast)
