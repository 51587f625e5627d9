"""From examples to the tensors of a training batch.

Range `examples.py` (dialogues) and `trainer.py`. Rendering, special tokens and the text budget
are the renderer's business; what stands here is which positions the loss covers and that the
answer taught is the very token that scoring reads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mllm_msr.config.settings import TrainingLoss
from mllm_msr.errors import AnswerTokenError
from mllm_msr.models.inputs import IGNORED_LABEL, Rendered, Renderer
from mllm_msr.ranker.examples import NEGATIVE_ANSWER, POSITIVE_ANSWER, Example
from mllm_msr.types import TextPart

# Rendered examples are kept up to this many tokens in all, so that later epochs need not render.
_KEPT_TOKENS: Final = 5_000_000


class Collator:
    """Renders examples, each once while there is room, and stacks them.

    Args:
        renderer: Renderer of the model that is trained.
        examples: The examples that batches are made of, by number.
        loss: "answer" teaches the answer alone. "full" teaches every text token of prompt and
            answer, as the paper's equation (2) has it; images and padding are left out of both.
        image_token_ids: Placeholders of images.
    """

    def __init__(
        self,
        renderer: Renderer,
        examples: Sequence[Example],
        *,
        loss: TrainingLoss = "answer",
        image_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._renderer = renderer
        self._examples = examples
        self._loss = loss
        self._image_token_ids = torch.tensor(sorted(image_token_ids), dtype=torch.long)
        self._rendered: dict[int, Rendered] = {}
        self._room = _KEPT_TOKENS

    def __len__(self) -> int:
        return len(self._examples)

    def length(self, index: int) -> int:
        """Length of an example's text in characters: near enough to sort by, without rendering."""
        messages = self._examples[index].prompt.messages
        parts = (part for message in messages for part in message.parts)
        return sum(len(part.text) for part in parts if isinstance(part, TextPart))

    def lengths(self) -> list[int]:
        """`length` of every example."""
        return [self.length(index) for index in range(len(self))]

    def images(self) -> list[int]:
        """A number for what every example shows: equal where the images are the same."""
        numbers: dict[tuple[Path, ...], int] = {}
        shown = (example.prompt.images for example in self._examples)
        return [numbers.setdefault(images, len(numbers)) for images in shown]

    def rendered(self, index: int) -> Rendered:
        """One example, its answer beside it.

        Raises:
            AnswerTokenError: The answer is not the token that scoring would read.
        """
        known = self._rendered.get(index)
        if known is not None:
            return known
        example = self._examples[index]
        rendered = self._renderer.render(example.prompt, example.answer)
        positive, negative = self.choice_ids
        if rendered.answer_ids != (positive if example.label == 1 else negative,):
            raise AnswerTokenError(
                needed=f"the answer {example.answer!r} to be trained as the token that is scored",
                received=f"the ids {rendered.answer_ids}",
                remedy="check the model's chat template",
            )
        if self._room >= len(rendered.input_ids):
            self._room -= len(rendered.input_ids)
            self._rendered[index] = rendered
        return rendered

    @functools.cached_property
    def choice_ids(self) -> tuple[int, int]:
        """Ids of the answers for and against, as they follow the first example's prompt.

        Raises:
            AnswerTokenError: One of them is not a single token there.
        """
        prompt = self._renderer.render(self._examples[0].prompt)
        choices = (POSITIVE_ANSWER, NEGATIVE_ANSWER)
        positive, negative = self._renderer.choice_ids(prompt.input_ids, choices)
        return positive, negative

    def training_batch(self, indices: Sequence[int], *, pixels: bool = True) -> dict[str, Tensor]:
        """Inputs and labels of some examples, padded on the right.

        Args:
            indices: Numbers of examples.
            pixels: False leaves the images' pixels out, for a caller that has their features.

        Returns:
            What the model's `forward` takes, and `labels`: [batch, length].
        """
        batch = self._collate(indices, pixels=pixels, with_answers=True)
        if self._loss == "full":
            batch["labels"] = self._all_text(batch)
        return batch

    def scoring_batch(self, indices: Sequence[int], *, pixels: bool = True) -> dict[str, Tensor]:
        """Inputs of some examples without their answers, padded on the right."""
        return self._collate(indices, pixels=pixels, with_answers=False)

    def _collate(
        self, indices: Sequence[int], *, pixels: bool, with_answers: bool
    ) -> dict[str, Tensor]:
        rows = [self.rendered(index) for index in indices]
        batch = self._renderer.collate(rows, pad_side="right", with_answers=with_answers)
        return {k: v for k, v in batch.items() if pixels or not k.startswith("pixel_")}

    def _all_text(self, batch: dict[str, Tensor]) -> Tensor:
        input_ids = batch["input_ids"]
        text = batch["attention_mask"].bool() & ~torch.isin(input_ids, self._image_token_ids)
        return torch.where(text, input_ids, IGNORED_LABEL)
