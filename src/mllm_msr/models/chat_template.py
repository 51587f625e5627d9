"""Chat templates: render a prompt as text in a model's markup, and as token ids.

Used by `models/inputs.py`. The markup of turns comes only from the checkpoint's own chat template
(figures 2 and 3 of the paper show the dialogues). Text parts are data: special tokens of the
model that occur in them are escaped before the template is applied.
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
    """Chat template of one checkpoint.

    Args:
        processor: The checkpoint's processor, or its tokenizer for a text-only model.

    Attributes:
        tokenizer: The checkpoint's tokenizer.

    Raises:
        BackendError: The checkpoint has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._text_only = processor is self.tokenizer
        # A multimodal checkpoint may store its template with the tokenizer.
        self._owner = processor if processor.chat_template else self.tokenizer
        if not self._owner.chat_template:
            raise BackendError(
                f"The checkpoint has no chat template ({type(processor).__name__}). Use the "
                "instruction-tuned version of the model or add a file chat_template.jinja."
            )
        self._markup = _markup_pattern(processor, self.tokenizer)

    def render(self, prompt: Prompt) -> str:
        """Render a prompt in the model's markup, up to the start of the answer.

        Args:
            prompt: Dialogue that ends with a user turn. Each image becomes one placeholder.

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
                # Adjacent parts are joined first: a special token may span their border.
                content.append({"type": "text", "text": self.escape_markup("".join(texts))})
            messages.append({"role": message.role, "content": content})
        return self._apply(messages, open_answer=True)

    def escape_markup(self, text: str) -> str:
        """Insert a space into each special token in a text, so that it loses its meaning."""
        # Terminates: a pass only adds spaces, so a new match would need a token with a longer gap.
        while (escaped := self._markup.sub(_split_token, text)) != text:
            text = escaped
        return text

    @functools.cached_property
    def answer_lead(self) -> str:
        """Return the white space that the template writes between an answer's opening and text."""
        word = "yes"
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": word}]},
        ]
        opened = self._apply(turns[:1], open_answer=True)
        whole = self._apply(turns, open_answer=False)
        lead, found, _ = whole.removeprefix(opened).partition(word)
        return lead if whole.startswith(opened) and found and not lead.strip() else ""

    def special_token_options(self, text: str) -> dict[str, bool]:
        """Return arguments with which a tokenizer adds the BOS token only if a text lacks it.

        Templates of processors may leave the BOS token to the tokenizer. Templates of tokenizers
        never do.
        """
        bos = self.tokenizer.bos_token
        has_bos = self._text_only or (bos is not None and text.startswith(bos))
        return {"add_special_tokens": not has_bos}

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a rendered text."""
        return tuple(self.tokenizer(text, **self.special_token_options(text))["input_ids"])

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
            roles = ", ".join(turn["role"] for turn in messages)
            raise BackendError(
                f"The checkpoint's chat template rejects the roles {roles}: {cause}. "
                "Use only roles that the model supports."
            ) from cause
        return text


def _markup_pattern(processor: Any, tokenizer: Any) -> re.Pattern[str]:
    """Compile a pattern for every string that a tokenizer or processor treats specially."""
    marks = {str(token) for token in tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        # Added words and white space are ordinary vocabulary; only markup has brackets or bars.
        if token.special or re.search(r"[<>\[\]{}|]", token.content):
            marks.add(token.content)
    for name in ("image_token", "video_token", "boi_token", "eoi_token", "fake_image_token"):
        marks.add(str(getattr(processor, name, None) or ""))
    alternatives = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives)) or r"(?!)", re.IGNORECASE)


def _split_token(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]} {token[1:]}" if len(token) > 1 else " "
