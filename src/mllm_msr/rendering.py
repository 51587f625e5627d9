"""From a `Prompt` to what a model reads: token ids and pixel tensors, by its own processor.

Backends and the fine-tuning collator share this road, so that training, scoring and serving see
the same tokens (Figures 2 and 3 of the paper). The markup of turns comes from the processor's
chat template alone. Text parts are data: marks of the model's markup in them are broken apart
before templating. A token budget cuts trimmable text before templating too, since a rendered
prompt can no longer be cut without tearing an answer or a picture apart.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
import torch
from torch import Tensor

from mllm_msr import trimming
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError, PromptTooLongError
from mllm_msr.images import open_image
from mllm_msr.pictures import PictureCache, stack_pictures
from mllm_msr.records import ImagePart, Prompt, TextPart

IGNORED_LABEL: Final = -100

# Longest end of a prompt that is read again to find an answer's id: markup and a few words.
_TAIL_TOKENS: Final = 64
_SHORTEST_TAIL: Final = 8


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as a model reads it.

    Attributes:
        input_ids: Token ids, each picture's placeholder expanded to its final tokens.
        images: Files of the pictures, in the order of their placeholders.
        n_text_tokens: Tokens of text and markup, pictures not counted.
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
        supports_images: Whether prompts may hold pictures.
        max_tokens: Longest sequence that the model takes, in tokens: pictures and the prompt's
            `max_new_tokens` included. `None` for no limit but the prompt's own.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        pictures: What the processor made of the pictures, kept for `collate`.

    Raises:
        BackendError: The checkpoint has no chat template.
    """

    def __init__(
        self, processor: Any, *, supports_images: bool, max_tokens: int | None = None
    ) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.pictures = PictureCache(processor)
        self._processor = processor
        self._supports_images = supports_images
        self._max_tokens = max_tokens
        # A multimodal checkpoint may keep its template with the tokenizer.
        self._template_owner = processor if processor.chat_template else self.tokenizer
        if not self._template_owner.chat_template:
            raise BackendError(
                needed="a checkpoint with a chat template",
                received=f"{type(processor).__name__} without one",
                remedy="use the instruction-tuned form of the model, or add chat_template.jinja",
            )
        self._marks = _marks_pattern(processor, self.tokenizer)
        self._special_ids = frozenset(self.tokenizer.all_special_ids)
        # Prompts of one batch end alike, and a text is counted before it is expanded.
        self._choice_ids = functools.lru_cache(maxsize=1024)(self._find_choice_ids)
        self._tail_length = functools.lru_cache(maxsize=1024)(self._find_tail_length)
        self._ids = functools.lru_cache(maxsize=8)(self._tokenise)

    def render(self, prompt: Prompt, answer: str | None = None) -> Rendered:
        """Turn a prompt, and an answer to learn from, into token ids.

        Args:
            prompt: Dialogue that ends with a user's turn.
            answer: What the model is to say; only its words, its turn's end is not added.

        Raises:
            CapabilityError: The prompt holds a picture and the model reads none.
            ImageError: A picture cannot be opened.
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
            answer_ids=self._continue(input_ids, source, answer) if answer else (),
        )

    def check(self, prompt: Prompt) -> None:
        """Raise `CapabilityError` where a prompt holds a picture and the model reads none."""
        if prompt.images and not self._supports_images:
            raise CapabilityError(
                needed="a model that reads pictures",
                received=f"a text-only model and a prompt with {prompt.images[0].name}",
                remedy="choose a multimodal checkpoint, or leave the pictures out",
            )

    def choice_ids(self, prompt_ids: Sequence[int], choices: Sequence[str]) -> tuple[int, ...]:
        """Ids of answers, each as the one token that would follow a rendered prompt.

        The prompt's end is read as text, the answer written behind it as the chat template
        writes answers, and both tokenised together: only that tells "yes" from " yes".

        Args:
            prompt_ids: `Rendered.input_ids`.
            choices: Answers ("yes", "no").

        Raises:
            AnswerTokenError: An answer is not exactly one token there, or two are the same.
        """
        n_tokens = self._tail_length(tuple(prompt_ids[-_SHORTEST_TAIL:])) or _TAIL_TOKENS
        return self._choice_ids(tuple(prompt_ids[-n_tokens:]), tuple(choices))

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
            for the pictures, all pictures of the batch one after another.
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
        pictures = [self.pictures.get(item.images) for item in batch if item.images]
        type_name = pictures[0].type_name if pictures else None
        if type_name is not None:
            typed_ids = torch.tensor(sorted(pictures[0].typed_ids))
            inputs[type_name] = torch.isin(inputs["input_ids"], typed_ids).long()
        return inputs | stack_pictures(pictures)

    @property
    def pad_id(self) -> int:
        """Token id that fills rows; never attended to."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def neutralise(self, text: str) -> str:
        """Text without any mark of the model's markup: a space breaks each one apart."""
        # Ends: what a pass adds is a space, so a new match needs a mark with a longer gap.
        while (broken := self._marks.sub(_break_apart, text)) != text:
            text = broken
        return text

    def _fit(self, prompt: Prompt, budget: int | None) -> tuple[str, int, bool]:
        """The templated prompt within a budget, its text tokens, and whether it was cut."""
        text = self._template(prompt)
        n_tokens = self._count(text, prompt.images)
        if budget is None or n_tokens <= budget:
            return text, n_tokens, False

        def count(n_words: int) -> int:
            return self._count(self._template(trimming.cut(prompt, n_words)), prompt.images)

        n_words = trimming.count_words(prompt)
        keep = bisect.bisect_right(range(n_words), budget, key=count) - 1
        if keep < 0:
            raise PromptTooLongError(
                needed=f"a prompt of at most {max(budget, 0)} text tokens",
                received=f"{n_tokens}, of which trimming cannot take enough",
                remedy="raise max_text_tokens or shorten what the prompt is made of",
            )
        return self._template(trimming.cut(prompt, keep)), count(keep), True

    def _template(self, prompt: Prompt) -> str:
        """The prompt as the chat template writes it."""
        messages = []
        for message in prompt.messages:
            content: list[dict[str, str]] = []
            for is_image, parts in itertools.groupby(
                message.parts, lambda part: isinstance(part, ImagePart)
            ):
                if is_image:
                    content.extend({"type": "image"} for _ in parts)
                    continue
                texts = [part.text for part in parts if isinstance(part, TextPart)]
                # Neighbours are joined first: a mark may hide across their border.
                content.append({"type": "text", "text": self.neutralise("".join(texts))})
            messages.append({"role": message.role, "content": content})
        return self._apply(messages, open_answer=True)

    def _apply(self, messages: list[dict[str, Any]], *, open_answer: bool) -> str:
        if self._processor is self.tokenizer:  # templates of text-only models expect strings
            messages = [
                {**message, "content": "".join(part["text"] for part in message["content"])}
                for message in messages
            ]
        try:
            text: str = self._template_owner.apply_chat_template(
                messages, add_generation_prompt=open_answer, tokenize=False
            )
        except jinja2.TemplateError as cause:
            raise BackendError(
                needed="a dialogue that the checkpoint's chat template accepts",
                received=f"turns of {', '.join(turn['role'] for turn in messages)} ({cause})",
                remedy="use only the roles that this model knows",
            ) from cause
        return text

    @functools.cached_property
    def _answer_lead(self) -> str:
        """White space that the chat template puts between an answer's opening and its words."""
        word = "yes"
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": word}]},
        ]
        opened = self._apply(turns[:1], open_answer=True)
        whole = self._apply(turns, open_answer=False)
        lead, found, _ = whole.removeprefix(opened).partition(word)
        return lead if whole.startswith(opened) and found and not lead.strip() else ""

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _opening(self, text: str) -> dict[str, bool]:
        """Whether the tokenizer still has to add its first token to a templated text.

        Templates of processors may leave that to the tokenizer, those of tokenizers never do.
        """
        bos = self.tokenizer.bos_token
        has_it = self._processor is self.tokenizer or (bos is not None and text.startswith(bos))
        return {"add_special_tokens": not has_it}

    def _tokenise(self, text: str) -> tuple[int, ...]:
        """Ids of a templated text."""
        return tuple(self.tokenizer(text, **self._opening(text))["input_ids"])

    def _count(self, text: str, images: tuple[Path, ...]) -> int:
        """Text tokens of a templated prompt."""
        placeholder = getattr(self._processor, "image_token", None)
        if placeholder is None:
            return len(self._ids(text))
        expansion = self.pictures.get(images).expansion if images else None
        if expansion is not None and not expansion.replace(placeholder, ""):
            text = text.replace(placeholder, expansion)  # nothing but placeholders: the same count
        ids = self._ids(text)
        return len(ids) - ids.count(self.tokenizer.convert_tokens_to_ids(placeholder))

    def _expand(self, text: str, images: tuple[Path, ...]) -> tuple[list[int], str | None]:
        """Ids of a templated prompt with its pictures, and the text that tokenises to them."""
        if not images:
            return list(self._ids(text)), text
        expansion = self.pictures.get(images).expansion
        if expansion is not None:
            text = text.replace(self._processor.image_token, expansion)
            return list(self._ids(text)), text
        opened = [open_image(path) for path in images]
        ids = self._processor(text=[text], images=opened, **self._opening(text))["input_ids"][0]
        return list(ids), None

    def _continue(self, input_ids: list[int], text: str | None, answer: str) -> tuple[int, ...]:
        """Ids that an answer adds to a prompt."""
        answer = self._answer_lead + self.neutralise(answer)
        if text is None:
            tail, text = self._readable_tail(tuple(input_ids[-_TAIL_TOKENS:]))
            whole = self._encode(text + answer)
        else:
            tail, whole = (
                input_ids,
                self.tokenizer(text + answer, **self._opening(text))["input_ids"],
            )
        if whole[: len(tail)] != tail or len(whole) == len(tail):
            raise AnswerTokenError(
                needed="an answer that begins with a token of its own",
                received=f"{answer!r}, which merges with the prompt's end",
                remedy="use a chat template that ends its answer's opening with a mark",
            )
        return tuple(whole[len(tail) :])

    def _find_tail_length(self, tail: tuple[int, ...]) -> int:
        """How many of a prompt's last tokens tell what follows them; 0 where these do not.

        Nothing merges across a special token, so that the last one is the best place to begin.
        """
        special = [place for place, token_id in enumerate(tail) if token_id in self._special_ids]
        for start in [*special[-1:], 0]:
            if self._survives(tail[start:]):
                return len(tail) - start
        return 0

    def _find_choice_ids(self, tail: tuple[int, ...], choices: tuple[str, ...]) -> tuple[int, ...]:
        ids, text = self._readable_tail(tail)
        found = []
        for choice in choices:
            whole = self._encode(text + self._answer_lead + choice)
            added = whole[len(ids) :]
            if whole[: len(ids)] != ids or len(added) != 1:
                pieces = self.tokenizer.convert_ids_to_tokens(added)
                raise AnswerTokenError(
                    needed="answers of exactly one token after the rendered prompt",
                    received=f"{choice!r} as {len(added)} tokens {pieces}",
                    remedy="choose other words for the answers",
                )
            found.append(added[0])
        if len(set(found)) != len(found):
            raise AnswerTokenError(
                needed="answers that differ in their token",
                received=f"{list(choices)} as the ids {found}",
                remedy="choose other words for the answers",
            )
        return tuple(found)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _survives(self, ids: Sequence[int]) -> bool:
        """Whether ids, written and read again, are the same."""
        return self._encode(self._decode(ids)) == list(ids)

    def _readable_tail(self, tail: tuple[int, ...]) -> tuple[list[int], str]:
        """The shortest end of a prompt that survives being written and read again."""
        for n_tokens in range(min(_SHORTEST_TAIL, len(tail)), len(tail) + 1):
            ids = tail[len(tail) - n_tokens :]
            if self._survives(ids):
                return list(ids), self._decode(ids)
        raise AnswerTokenError(
            needed="a prompt whose end its tokenizer reads as it wrote it",
            received=f"{self.tokenizer.convert_ids_to_tokens(list(tail[-8:]))}",
            remedy="check the checkpoint's tokenizer",
        )


def _marks_pattern(processor: Any, tokenizer: Any) -> re.Pattern[str]:
    """A pattern for every string that a tokenizer or processor gives a meaning of its own."""
    marks = {str(token) for token in tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        # Added words and white space are vocabulary; only markup has brackets or bars.
        if token.special or re.search(r"[<>\[\]{}|]", token.content):
            marks.add(token.content)
    for name in ("image_token", "video_token", "boi_token", "eoi_token", "fake_image_token"):
        marks.add(str(getattr(processor, name, None) or ""))
    alternatives = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives)) or r"(?!)", re.IGNORECASE)


def _break_apart(match: re.Match[str]) -> str:
    mark = match[0]
    return f"{mark[0]} {mark[1:]}" if len(mark) > 1 else " "


def _pad(
    rows: Sequence[tuple[int, ...]], *, length: int, side: Literal["left", "right"], fill: int
) -> Tensor:
    """Rows of ids as one tensor [batch, length]."""
    padded = []
    for row in rows:
        filling = (fill,) * (length - len(row))
        padded.append(filling + row if side == "left" else row + filling)
    return torch.tensor(padded, dtype=torch.long)
