"""From a dialogue to one text in a model's markup, and to the ids of that text.

Used by `models/inputs.py`. The markup of turns comes from the checkpoint's own chat template alone
(Figures 2 and 3 of the paper give the dialogues). Text parts are data: marks of the model's
markup in them are broken apart before templating.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import jinja2

from mllm_msr.errors import BackendError
from mllm_msr.types import ImagePart, Prompt, TextPart


class ChatTemplate:
    """The chat template of one checkpoint.

    Args:
        processor: The checkpoint's processor, or its tokenizer where it reads text only.

    Attributes:
        tokenizer: The checkpoint's tokenizer.

    Raises:
        BackendError: The checkpoint has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._text_only = processor is self.tokenizer
        # A multimodal checkpoint may keep its template with the tokenizer.
        self._owner = processor if processor.chat_template else self.tokenizer
        if not self._owner.chat_template:
            raise BackendError(
                needed="a checkpoint with a chat template",
                received=f"{type(processor).__name__} without one",
                remedy="use the instruction-tuned form of the model, or add chat_template.jinja",
            )
        self._marks = _marks_pattern(processor, self.tokenizer)

    def write(self, prompt: Prompt) -> str:
        """The prompt in the model's markup, up to where its answer begins.

        Args:
            prompt: Dialogue that ends with a user's turn; each image becomes one placeholder.

        Raises:
            BackendError: The template does not accept the dialogue's turns.
        """
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

    def neutralise(self, text: str) -> str:
        """Text without any mark of the model's markup: a space breaks each one apart."""
        # Ends: what a pass adds is a space, so a new match needs a mark with a longer gap.
        while (broken := self._marks.sub(_break_apart, text)) != text:
            text = broken
        return text

    @functools.cached_property
    def answer_lead(self) -> str:
        """White space that the template puts between an answer's opening and its words."""
        word = "yes"
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": word}]},
        ]
        opened = self._apply(turns[:1], open_answer=True)
        whole = self._apply(turns, open_answer=False)
        lead, found, _ = whole.removeprefix(opened).partition(word)
        return lead if whole.startswith(opened) and found and not lead.strip() else ""

    def opening(self, text: str) -> dict[str, bool]:
        """Arguments by which a tokenizer or processor adds what a templated text still lacks.

        Templates of processors may leave the first token to the tokenizer, those of tokenizers
        never do.
        """
        bos = self.tokenizer.bos_token
        has_it = self._text_only or (bos is not None and text.startswith(bos))
        return {"add_special_tokens": not has_it}

    def tokenise(self, text: str) -> tuple[int, ...]:
        """Ids of a templated text."""
        return tuple(self.tokenizer(text, **self.opening(text))["input_ids"])

    def _apply(self, messages: list[dict[str, Any]], *, open_answer: bool) -> str:
        if self._text_only:  # templates of text-only models expect strings
            messages = [
                {**message, "content": "".join(part["text"] for part in message["content"])}
                for message in messages
            ]
        try:
            text: str = self._owner.apply_chat_template(
                messages, add_generation_prompt=open_answer, tokenize=False
            )
        except jinja2.TemplateError as cause:
            raise BackendError(
                needed="a dialogue that the checkpoint's chat template accepts",
                received=f"turns of {', '.join(turn['role'] for turn in messages)} ({cause})",
                remedy="use only the roles that this model knows",
            ) from cause
        return text


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
