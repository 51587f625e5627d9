"""Model inputs: convert a `Prompt` to token ids and pixel tensors with the checkpoint's processor.

Shared by the backends and the fine-tuning collator, so that training, scoring and serving see the
same tokens (figures 2 and 3 of the paper). `models/chat_template.py` renders the dialogue in the
model's markup, `models/image_inputs.py` prepares the images, and `models/answer_tokens.py` finds
the tokens of an answer. A token budget truncates trimmable text before the template is applied: a
rendered prompt cannot be truncated without cutting into an answer or an image.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from mllm_msr.data.images import open_image
from mllm_msr.errors import CapabilityError, ImageError, PromptTooLongError
from mllm_msr.models.answer_tokens import AnswerTokens
from mllm_msr.models.chat_template import ChatTemplate
from mllm_msr.models.image_inputs import PROCESSOR_ERRORS, ImageCache, stack_images
from mllm_msr.models.vector_tokens import FIRST_ID, VectorProjector, soft_token_id
from mllm_msr.prompts import truncation
from mllm_msr.prompts.thoughts import is_mark
from mllm_msr.types import Prompt, VectorPart

IGNORED_LABEL: Final = -100


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as token ids and image files.

    Attributes:
        input_ids: Token ids; the placeholder of each image is expanded to its final tokens. Those
            of vectors are above all others, see `models/vector_tokens.py`.
        images: Files of the images, in the order of their placeholders.
        n_text_tokens: Number of tokens of text and markup, without image tokens.
        trimmed: Whether a trimmable part was truncated.
        answer_ids: Token ids of the answer, if one was given; not part of `input_ids`.
        text_inputs: Further inputs of the model with one value for each token [1, length, ...],
            such as the images that each token attends to.
        vectors: Vectors that `input_ids` may refer to.
    """

    input_ids: tuple[int, ...]
    images: tuple[Path, ...]
    n_text_tokens: int
    trimmed: bool
    answer_ids: tuple[int, ...] = ()
    text_inputs: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    vectors: tuple[VectorPart, ...] = ()


class Renderer:
    """Renderer of prompts for one checkpoint.

    Args:
        processor: The checkpoint's processor, or its tokenizer for a text-only model.
        supports_images: Whether prompts may contain images.
        max_tokens: Maximum sequence length of the model, in tokens, including images and the
            prompt's `max_new_tokens`. None for no limit other than the prompt's own.
        projector: Projector of the model for vectors in prompts, if it has one.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        images: Cache of prepared images, read by `collate`.

    Raises:
        BackendError: The checkpoint has no chat template.
    """

    def __init__(
        self,
        processor: Any,
        *,
        supports_images: bool,
        max_tokens: int | None = None,
        projector: VectorProjector | None = None,
    ) -> None:
        self._template = ChatTemplate(processor)
        self._answers = AnswerTokens(self._template)
        self.tokenizer = self._template.tokenizer
        self.images = ImageCache(processor)
        self._processor = processor
        self._supports_images = supports_images
        self._max_tokens = max_tokens
        self._projector = projector
        # The same text is tokenized once to count its tokens and once to expand it.
        self._ids = functools.lru_cache(maxsize=8)(self._template.tokenize)

    def render(self, prompt: Prompt, answer: str | None = None) -> Rendered:
        """Convert a prompt, and optionally an answer to train on, to token ids.

        Args:
            prompt: Dialogue that ends with a user turn.
            answer: Target text without an end-of-turn token.

        Raises:
            CapabilityError: The prompt contains an image or a vector, which the model does not
                support.
            ImageError: An image cannot be opened.
            PromptTooLongError: Truncating the trimmable parts does not meet the budget.
            AnswerTokenError: The first characters of the answer merge with the prompt's end.
        """
        self.check(prompt)
        text, n_text_tokens, trimmed = self._fit(prompt, prompt.max_text_tokens)
        expanded = self._expand(text, prompt.images)
        length = len(expanded.ids) + prompt.max_new_tokens
        if self._max_tokens is not None and length > self._max_tokens:
            budget = n_text_tokens - (length - self._max_tokens)
            text, n_text_tokens, trimmed = self._fit(prompt, budget)
            expanded = self._expand(text, prompt.images)
        ids = expanded.ids
        return Rendered(
            input_ids=self._with_vectors(ids, prompt.vectors),
            images=prompt.images,
            n_text_tokens=n_text_tokens,
            trimmed=trimmed,
            answer_ids=(
                self._answers.answer_ids(ids, answer, text=expanded.source) if answer else ()
            ),
            text_inputs=expanded.text_inputs,
            vectors=prompt.vectors,
        )

    def check(self, prompt: Prompt) -> None:
        """Raise `CapabilityError` if a prompt has images or vectors that the model cannot read."""
        if prompt.images and not self._supports_images:
            raise CapabilityError(
                f"A text-only model received a prompt with the image {prompt.images[0].name}. "
                "Use a multimodal checkpoint or prompts without images."
            )
        if self._projector is None and prompt.vectors:
            raise CapabilityError(
                "A model without a projector for vectors received a prompt with vectors of users "
                "and items. Load the weights that were fine-tuned with recommend.collaborative, or "
                "set recommend.collaborative=none."
            )

    def choice_ids(self, prompt_ids: Sequence[int], choices: Sequence[str]) -> tuple[int, ...]:
        """Return the token id of each choice as the first token after a rendered prompt.

        Args:
            prompt_ids: `Rendered.input_ids`.
            choices: Answers ("yes", "no").

        Raises:
            AnswerTokenError: A choice is not a single token there, or two choices share a token.
        """
        if any(number >= FIRST_ID for number in prompt_ids):
            mark = self._template.vector_token_id
            prompt_ids = [mark if number >= FIRST_ID else number for number in prompt_ids]
        return self._answers.choice_ids(prompt_ids, choices)

    def collate(
        self,
        batch: Sequence[Rendered],
        *,
        pad_side: Literal["left", "right"],
        with_answers: bool,
    ) -> dict[str, Tensor]:
        """Collate rendered prompts to a batch of model inputs.

        Args:
            batch: At least one rendered prompt.
            pad_side: "left" for generation, "right" for scoring and training.
            with_answers: Append the answers and add `labels`, which are -100 elsewhere.

        Returns:
            `input_ids` and `attention_mask` [batch, length], int64, and the model's own inputs
            for the images, concatenated over the batch.
        """
        if self._projector is not None:
            self._projector.hold(part for item in batch for part in item.vectors)
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
        return inputs | self._image_inputs(
            batch, inputs["input_ids"], pad_side, n_answers=[len(answer) for answer in answers]
        )

    def _image_inputs(
        self,
        batch: Sequence[Rendered],
        input_ids: Tensor,
        side: Literal["left", "right"],
        *,
        n_answers: Sequence[int],
    ) -> dict[str, Tensor]:
        """Return the inputs of a batch, [batch, length], that exist only because of its images."""
        images = [self.images.get(item.images) if item.images else None for item in batch]
        shown = [each for each in images if each is not None]
        if not shown:
            return {}
        inputs: dict[str, Tensor] = {}
        if self.images.text_inputs:
            # Such models expect images of every prompt. Tokens never attend to the blank ones.
            length = input_ids.shape[1]
            inputs = _stack_text_inputs(batch, n_answers, length=length, side=side)
            shown = [shown[0].blank() if each is None else each for each in images]
        type_name = shown[0].type_name
        if type_name is not None:
            typed_ids = torch.tensor(sorted(shown[0].typed_ids))
            inputs[type_name] = torch.isin(input_ids, typed_ids).long()
        return inputs | stack_images(shown)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, with the markup of thoughts if there is any."""
        prefix = self._template.open_thought
        if not prefix and self.thought_ids.isdisjoint(ids):
            text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
            return text
        hidden = set(self.tokenizer.all_special_ids) - self.thought_ids
        visible = [token_id for token_id in ids if token_id not in hidden]
        return prefix + str(self.tokenizer.decode(visible, skip_special_tokens=False))

    def require_answer_position(self) -> None:
        """Raise `CapabilityError` if prompts end within a thought, where no answer can follow."""
        if mark := self._template.open_thought:
            raise CapabilityError(
                f"The checkpoint's chat template ends prompts with {mark}, so the first token of "
                "the model does not answer yes or no. Use a checkpoint without thoughts, or a chat "
                "template that closes the thought."
            )

    @property
    def template_switches(self) -> Mapping[str, bool]:
        """Return the variables with which the chat template is asked to turn thoughts off."""
        return self._template.switches

    @functools.cached_property
    def thought_ids(self) -> frozenset[int]:
        """Return the ids of all tokens that are markup of thoughts."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(int(token_id) for token_id, token in added if is_mark(token.content))

    @property
    def pad_id(self) -> int:
        """Return the token id used for padding, which is never attended to."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def _fit(self, prompt: Prompt, budget: int | None) -> tuple[str, int, bool]:
        """Return the prompt rendered within a budget, its text tokens, and whether it was cut."""
        text = self._template.render(prompt)
        n_tokens = self._count(text, prompt.images)
        if budget is None or n_tokens <= budget:
            return text, n_tokens, False

        def count(n_words: int) -> int:
            text = self._template.render(truncation.cut(prompt, n_words))
            return self._count(text, prompt.images)

        n_words = truncation.count_words(prompt)
        keep = bisect.bisect_right(range(n_words), budget, key=count) - 1
        if keep < 0:
            raise PromptTooLongError(
                f"The prompt has {n_tokens} text tokens, and truncation cannot reduce it to the "
                f"limit of {max(budget, 0)}. Increase max_text_tokens or shorten the prompt."
            )
        return self._template.render(truncation.cut(prompt, keep)), count(keep), True

    def _count(self, text: str, images: tuple[Path, ...]) -> int:
        """Return the number of text tokens of a rendered prompt."""
        placeholder = getattr(self._processor, "image_token", None)
        if placeholder is None:
            return len(self._ids(text))
        expansion = self.images.get(images).expansion if images else None
        if expansion is not None and not expansion.replace(placeholder, ""):
            text = text.replace(placeholder, expansion)  # only placeholders: same text tokens
        ids = self._ids(text)
        return len(ids) - ids.count(self.tokenizer.convert_tokens_to_ids(placeholder))

    def _expand(self, text: str, images: tuple[Path, ...]) -> _Expanded:
        """Return the tokens of a rendered prompt with images.

        Raises:
            ImageError: The processor rejects the images together with this text.
        """
        if not images:
            return _Expanded(list(self._ids(text)), text)
        expansion = self.images.get(images).expansion
        if expansion is not None:
            text = text.replace(self._processor.image_token, expansion)
            return _Expanded(list(self._ids(text)), text)
        output = self._call(text, images)
        found = {name: output[name] for name in self.images.text_inputs if name in output}
        return _Expanded(output["input_ids"][0].tolist(), None, found)

    def _with_vectors(self, ids: Sequence[int], vectors: Sequence[VectorPart]) -> tuple[int, ...]:
        """Replace the placeholders of vectors by the ids of their tokens.

        Raises:
            CapabilityError: The model's template prints the token that stands for vectors.
        """
        if not vectors:
            return tuple(ids)
        mark = self._template.vector_token_id
        if ids.count(mark) != len(vectors):
            raise CapabilityError(
                f"The prompt has {ids.count(mark)} tokens {self._template.vector_token} for "
                f"{len(vectors)} vectors, so the chat template prints this token itself. Use "
                "another chat template, or recommend.collaborative=none."
            )
        remaining = map(soft_token_id, vectors)
        return tuple(next(remaining) if number == mark else number for number in ids)

    def _call(self, text: str, images: tuple[Path, ...]) -> Mapping[str, Any]:
        opened = [open_image(path) for path in images]
        options = self._template.special_token_options(text)
        try:
            output: Mapping[str, Any] = self._processor(
                text=[text], images=opened, return_tensors="pt", **options
            )
        except PROCESSOR_ERRORS as error:
            names = ", ".join(path.name for path in images)
            raise ImageError(
                f"The model's processor rejects a prompt with {names}: {error}. Replace the image."
            ) from error
        return output


@dataclass(frozen=True, slots=True)
class _Expanded:
    """A rendered prompt with images: its tokens, and the text that tokenizes to them if known."""

    ids: list[int]
    source: str | None
    text_inputs: Mapping[str, Tensor] = field(default_factory=dict)


def _stack_text_inputs(
    batch: Sequence[Rendered],
    n_answers: Sequence[int],
    *,
    length: int,
    side: Literal["left", "right"],
) -> dict[str, Tensor]:
    """Stack the further inputs of prompts: [batch, length, ...].

    Answers continue the last token of the prompt. Padding, and prompts without images, are zero.
    """
    shown = [(row, item) for row, item in enumerate(batch) if item.text_inputs]
    stacked = {}
    for name in shown[0][1].text_inputs if shown else ():
        values = [item.text_inputs[name][0] for _, item in shown]  # [tokens, ...]
        shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
        whole = values[0].new_zeros(len(batch), length, *shape)
        for (row, _), value in zip(shown, values, strict=True):
            start = length - len(value) - n_answers[row] if side == "left" else 0
            end = start + len(value)
            region = (slice(None), *(slice(size) for size in value.shape[1:]))
            whole[row, start:end][region] = value
            whole[row, end : end + n_answers[row]][region] = value[-1]
        stacked[name] = whole
    return stacked


def _pad(
    rows: Sequence[tuple[int, ...]], *, length: int, side: Literal["left", "right"], fill: int
) -> Tensor:
    """Pad rows of ids to one tensor [batch, length]."""
    padded = []
    for row in rows:
        padding = (fill,) * (length - len(row))
        padded.append(padding + row if side == "left" else row + padding)
    return torch.tensor(padded, dtype=torch.long)
