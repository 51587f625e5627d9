"""From a `Prompt` to what a model reads: token ids and pixel tensors, by its own processor.

Backends and the fine-tuning collator share this road, so that training, scoring and serving see
the same tokens (Figures 2 and 3 of the paper). `models/chat_template.py` writes the dialogue in the
model's markup, `models/image_inputs.py` has the images, `models/answer_tokens.py` knows what follows a prompt. A
token budget cuts trimmable text before templating, since a rendered prompt can no longer be cut
without tearing an answer or a image apart.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from mllm_msr.data.images import open_image
from mllm_msr.errors import CapabilityError, PromptTooLongError
from mllm_msr.models.answer_tokens import AnswerTokens
from mllm_msr.models.chat_template import ChatTemplate
from mllm_msr.models.image_inputs import ImageCache, stack_images
from mllm_msr.prompts import truncation
from mllm_msr.types import Prompt

IGNORED_LABEL: Final = -100


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as a model reads it.

    Attributes:
        input_ids: Token ids, each image's placeholder expanded to its final tokens.
        images: Files of the images, in the order of their placeholders.
        n_text_tokens: Tokens of text and markup, images not counted.
        trimmed: Whether a trimmable part was cut.
        answer_ids: Token ids of the answer where one was given; not part of `input_ids`.
    """

    input_ids: tuple[int, ...]
    images: tuple[Path, ...]
    n_text_tokens: int
    trimmed: bool
    answer_ids: tuple[int, ...] = ()


class Renderer:
    """Renders prompts for one checkpoint.

    Args:
        processor: The checkpoint's processor, or its tokenizer where it reads text only.
        supports_images: Whether prompts may hold images.
        max_tokens: Longest sequence that the model takes, in tokens: images and the prompt's
            `max_new_tokens` included. `None` for no limit but the prompt's own.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        images: What the processor made of the images, kept for `collate`.

    Raises:
        BackendError: The checkpoint has no chat template.
    """

    def __init__(
        self, processor: Any, *, supports_images: bool, max_tokens: int | None = None
    ) -> None:
        self._template = ChatTemplate(processor)
        self._answers = AnswerTokens(self._template)
        self.tokenizer = self._template.tokenizer
        self.images = ImageCache(processor)
        self._processor = processor
        self._supports_images = supports_images
        self._max_tokens = max_tokens
        # A text is counted before it is expanded.
        self._ids = functools.lru_cache(maxsize=8)(self._template.tokenise)

    def render(self, prompt: Prompt, answer: str | None = None) -> Rendered:
        """Turn a prompt, and an answer to learn from, into token ids.

        Args:
            prompt: Dialogue that ends with a user's turn.
            answer: What the model is to say; only its words, its turn's end is not added.

        Raises:
            CapabilityError: The prompt holds a image and the model reads none.
            ImageError: A image cannot be opened.
            PromptTooLongError: The budget cannot be met by cutting trimmable parts.
            AnswerTokenError: The answer's first letters would merge with the prompt's end.
        """
        self.check(prompt)
        text, n_text_tokens, trimmed = self._fit(prompt, prompt.max_text_tokens)
        input_ids, source = self._expand(text, prompt.images)
        length = len(input_ids) + prompt.max_new_tokens
        if self._max_tokens is not None and length > self._max_tokens:
            budget = n_text_tokens - (length - self._max_tokens)
            text, n_text_tokens, trimmed = self._fit(prompt, budget)
            input_ids, source = self._expand(text, prompt.images)
        return Rendered(
            input_ids=tuple(input_ids),
            images=prompt.images,
            n_text_tokens=n_text_tokens,
            trimmed=trimmed,
            answer_ids=(self._answers.answer_ids(input_ids, answer, text=source) if answer else ()),
        )

    def check(self, prompt: Prompt) -> None:
        """Raise `CapabilityError` where a prompt holds a image and the model reads none."""
        if prompt.images and not self._supports_images:
            raise CapabilityError(
                needed="a model that reads images",
                received=f"a text-only model and a prompt with {prompt.images[0].name}",
                remedy="choose a multimodal checkpoint, or leave the images out",
            )

    def choice_ids(self, prompt_ids: Sequence[int], choices: Sequence[str]) -> tuple[int, ...]:
        """Ids of answers, each as the one token that would follow a rendered prompt.

        Args:
            prompt_ids: `Rendered.input_ids`.
            choices: Answers ("yes", "no").

        Raises:
            AnswerTokenError: An answer is not exactly one token there, or two are the same.
        """
        return self._answers.choice_ids(prompt_ids, choices)

    def collate(
        self,
        batch: Sequence[Rendered],
        *,
        pad_side: Literal["left", "right"],
        with_answers: bool,
    ) -> dict[str, Tensor]:
        """Stack rendered prompts to a model's inputs.

        Args:
            batch: At least one rendered prompt.
            pad_side: "left" to generate, "right" to score and to train.
            with_answers: Append the answers and add `labels`, which are -100 elsewhere.

        Returns:
            `input_ids` and `attention_mask` [batch, length], int64, and the model's own inputs
            for the images, all images of the batch one after another.
        """
        answers = [item.answer_ids if with_answers else () for item in batch]
        rows = [item.input_ids + answer for item, answer in zip(batch, answers, strict=True)]
        pad = functools.partial(_pad, length=max(map(len, rows)), side=pad_side)
        inputs = {
            "input_ids": pad(rows, fill=self.pad_id),
            "attention_mask": pad([(1,) * len(row) for row in rows], fill=0),
        }
        if with_answers:
            labels = [
                (IGNORED_LABEL,) * len(item.input_ids) + answer
                for item, answer in zip(batch, answers, strict=True)
            ]
            inputs["labels"] = pad(labels, fill=IGNORED_LABEL)
        images = [self.images.get(item.images) for item in batch if item.images]
        type_name = images[0].type_name if images else None
        if type_name is not None:
            typed_ids = torch.tensor(sorted(images[0].typed_ids))
            inputs[type_name] = torch.isin(inputs["input_ids"], typed_ids).long()
        return inputs | stack_images(images)

    @property
    def pad_id(self) -> int:
        """Token id that fills rows; never attended to."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def _fit(self, prompt: Prompt, budget: int | None) -> tuple[str, int, bool]:
        """The templated prompt within a budget, its text tokens, and whether it was cut."""
        text = self._template.write(prompt)
        n_tokens = self._count(text, prompt.images)
        if budget is None or n_tokens <= budget:
            return text, n_tokens, False

        def count(n_words: int) -> int:
            return self._count(self._template.write(truncation.cut(prompt, n_words)), prompt.images)

        n_words = truncation.count_words(prompt)
        keep = bisect.bisect_right(range(n_words), budget, key=count) - 1
        if keep < 0:
            raise PromptTooLongError(
                needed=f"a prompt of at most {max(budget, 0)} text tokens",
                received=f"{n_tokens}, of which trimming cannot take enough",
                remedy="raise max_text_tokens or shorten what the prompt is made of",
            )
        return self._template.write(truncation.cut(prompt, keep)), count(keep), True

    def _count(self, text: str, images: tuple[Path, ...]) -> int:
        """Text tokens of a templated prompt."""
        placeholder = getattr(self._processor, "image_token", None)
        if placeholder is None:
            return len(self._ids(text))
        expansion = self.images.get(images).expansion if images else None
        if expansion is not None and not expansion.replace(placeholder, ""):
            text = text.replace(placeholder, expansion)  # nothing but placeholders: the same count
        ids = self._ids(text)
        return len(ids) - ids.count(self.tokenizer.convert_tokens_to_ids(placeholder))

    def _expand(self, text: str, images: tuple[Path, ...]) -> tuple[list[int], str | None]:
        """Ids of a templated prompt with its images, and the text that tokenises to them."""
        if not images:
            return list(self._ids(text)), text
        expansion = self.images.get(images).expansion
        if expansion is not None:
            text = text.replace(self._processor.image_token, expansion)
            return list(self._ids(text)), text
        opened = [open_image(path) for path in images]
        read = self._processor(text=[text], images=opened, **self._template.opening(text))
        return list(read["input_ids"][0]), None


def _pad(
    rows: Sequence[tuple[int, ...]], *, length: int, side: Literal["left", "right"], fill: int
) -> Tensor:
    """Rows of ids as one tensor [batch, length]."""
    padded = []
    for row in rows:
        filling = (fill,) * (length - len(row))
        padded.append(filling + row if side == "left" else row + filling)
    return torch.tensor(padded, dtype=torch.long)
