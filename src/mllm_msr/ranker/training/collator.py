"""Collation of examples (`examples.py`) into batches for training and validation.

The renderer of the model applies chat template, special tokens and text budget; the collator
labels the tokens to learn and checks that training and scoring use the same answer token.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.config.train_settings import TrainingLoss
from mllm_msr.errors import AnswerTokenError, DataError
from mllm_msr.models.inputs import IGNORED_LABEL, Rendered, Renderer
from mllm_msr.models.vector_tokens import FIRST_ID
from mllm_msr.ranker.examples import CHOICES, Example

# Rendered examples are cached up to this total number of tokens, for later epochs. They are never
# evicted: epochs repeat all examples, so evicting the least recent one would always miss.
_CACHED_TOKENS: Final = 5_000_000


class Collator:
    """Collator that renders examples and stacks them into batches.

    Args:
        renderer: Renderer of the model that is trained.
        examples: Examples that batches refer to by index.
        order: What the prompts begin with.
        loss: "answer" labels the answer alone. "full" labels every text token of prompt and
            answer, as equation (2) of the paper, but never image tokens, vectors and padding.
        image_token_ids: Ids of image placeholder tokens.

    Attributes:
        order: As given.
    """

    def __init__(
        self,
        renderer: Renderer,
        examples: Sequence[Example],
        *,
        order: PromptOrder = "item-first",
        loss: TrainingLoss = "answer",
        image_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._renderer = renderer
        self._examples = examples
        self.order: PromptOrder = order
        self._loss = loss
        self._image_token_ids = torch.tensor(sorted(image_token_ids), dtype=torch.long)
        self._rendered: dict[int, Rendered] = {}
        self._free_tokens = _CACHED_TOKENS

    def __len__(self) -> int:
        return len(self._examples)

    def lengths(self) -> list[int]:
        """Return the number of text characters of every example, to sort by without rendering."""
        return [sum(map(len, example.prompt.texts)) for example in self._examples]

    def prefix_groups(self) -> list[int]:
        """Return a group number per example; prompts of a group begin in the same way.

        Examples of a group have the same images, or with "user-first" the same target.
        """
        groups: dict[Hashable, int] = {}
        keys: Iterable[Hashable] | None = self.targets(range(len(self)))
        if keys is None:
            keys = (example.prompt.images for example in self._examples)
        return [groups.setdefault(key, len(groups)) for key in keys]

    def targets(self, indices: Iterable[int]) -> list[tuple[str, int]] | None:
        """Return user and position of some examples' targets; None if prompts begin with items."""
        if self.order == "item-first":
            return None
        examples = (self._examples[index] for index in indices)
        return [(example.user_id, example.position) for example in examples]

    def lists(self) -> list[list[int]]:
        """Return the examples of each target, the candidates of which are compared.

        Raises:
            DataError: A target does not have exactly one positive and at least one negative.
        """
        lists: dict[tuple[str, int], list[int]] = {}
        for index, example in enumerate(self._examples):
            lists.setdefault((example.user_id, example.position), []).append(index)
        for (user, position), indices in lists.items():
            n_positives = sum(self._examples[index].label for index in indices)
            if n_positives != 1 or len(indices) < 2:
                raise DataError(
                    f"The target of user {user!r} at position {position} has {n_positives} "
                    f"positives and {len(indices) - n_positives} negatives. The listwise objective "
                    "needs one positive and at least one negative per target."
                )
        return list(lists.values())

    def labels(self, indices: Iterable[int]) -> Tensor:
        """Return the labels of some examples, float32: [n]."""
        return torch.tensor([float(self._examples[index].label) for index in indices])

    def rendered(self, index: int) -> Rendered:
        """Render one example with its answer, or return it from the cache.

        Raises:
            AnswerTokenError: The answer is not the token that scoring reads.
        """
        cached = self._rendered.get(index)
        if cached is not None:
            return cached
        example = self._examples[index]
        rendered = self._renderer.render(example.prompt, example.answer)
        positive, negative = self.choice_ids
        expected = positive if example.label == 1 else negative
        if rendered.answer_ids != (expected,):
            raise AnswerTokenError(
                f"The answer {example.answer!r} would be trained as the tokens "
                f"{rendered.answer_ids}, but scoring reads the token {expected}. Check the chat "
                "template of the model."
            )
        if self._free_tokens >= len(rendered.input_ids):
            self._free_tokens -= len(rendered.input_ids)
            self._rendered[index] = rendered
        return rendered

    def with_images(self) -> Iterator[Rendered]:
        """Yield the rendered examples that have images."""
        for index, example in enumerate(self._examples):
            if example.prompt.images:
                yield self.rendered(index)

    @functools.cached_property
    def choice_ids(self) -> tuple[int, int]:
        """Return the token ids of the positive and the negative answer.

        Raises:
            AnswerTokenError: An answer is not a single token after the first example's prompt.
        """
        prompt = self._renderer.render(self._examples[0].prompt)
        positive, negative = self._renderer.choice_ids(prompt.input_ids, CHOICES)
        return positive, negative

    def training_batch(self, indices: Sequence[int], *, pixels: bool = True) -> dict[str, Tensor]:
        """Return inputs and labels of some examples, padded on the right.

        Args:
            indices: Indices of the examples.
            pixels: Include the pixels of the images; False if the caller has their features.

        Returns:
            What the model's `forward` takes, and `labels`: [batch, length].
        """
        batch = self._collate(indices, pixels=pixels, with_answers=True)
        if self._loss == "full":
            input_ids = batch["input_ids"]
            is_image = torch.isin(input_ids, self._image_token_ids)
            is_text = batch["attention_mask"].bool() & ~is_image & (input_ids < FIRST_ID)
            batch["labels"] = torch.where(is_text, input_ids, IGNORED_LABEL)
        return batch

    def scoring_batch(self, indices: Sequence[int], *, pixels: bool = True) -> dict[str, Tensor]:
        """Return inputs of some examples without their answers, padded on the right."""
        return self._collate(indices, pixels=pixels, with_answers=False)

    def _collate(
        self, indices: Sequence[int], *, pixels: bool, with_answers: bool
    ) -> dict[str, Tensor]:
        rows = [self.rendered(index) for index in indices]
        batch = self._renderer.collate(rows, pad_side="right", with_answers=with_answers)
        return {k: v for k, v in batch.items() if pixels or not k.startswith("pixel_")}
