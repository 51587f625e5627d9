"""Chat templates: render a prompt as text in a model's markup, and as token ids.

Used by `models/inputs.py`. The markup of turns comes only from the checkpoint's own chat template
(figures 2 and 3 of the paper show the dialogues). Text parts are data: special tokens of the
model that occur in them are escaped before the template is applied.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import jinja2

from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.prompts.reranking import as_dialogue, is_reranking
from mllm_msr.prompts.thoughts import opens_thought
from mllm_msr.types import ImagePart, Part, Prompt, TextPart

# Text of a turn that no template contains.
_PROBE: Final = "Zm9vYmFy"
# Stands for a vector until special tokens in the text are escaped. Texts never contain it.
_VECTOR: Final = "\ue004"
_PRINTED_PART: Final = re.compile(rf"""["']text["']\s*:\s*["']{_PROBE}""")
# Attributes of processors that name tokens of images and videos.
_PRINTED_TOKENS: Final = (
    *("image_token", "video_token", "boi_token", "eoi_token", "fake_image_token"),
)
# Variables that make templates of hybrid models (Qwen, GLM, DeepSeek) close the thought in advance.
_THOUGHT_VARIABLES: Final = ("enable_thinking", "thinking")
# What Jinja and the expressions in a template raise.
_TEMPLATE_ERRORS: Final = (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError)


class ChatTemplate:
    """Chat template of one checkpoint.

    Templates of multimodal checkpoints usually expect a list of parts as the content of a turn,
    those of text-only models a string. Which one a template prints correctly is tested once.
    Thoughts are turned off in templates that support it.

    Args:
        processor: The checkpoint's processor, or its tokenizer for a text-only model.

    Attributes:
        tokenizer: The checkpoint's tokenizer.

    Raises:
        BackendError: The checkpoint has no chat template, or one that does not print the text of a
            turn.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._text_only = processor is self.tokenizer
        self._placeholder = getattr(processor, "image_token", None)
        # A multimodal checkpoint may store its template with the tokenizer.
        self._owner = processor if processor.chat_template else self.tokenizer
        if not self._owner.chat_template:
            raise BackendError(
                f"The checkpoint has no chat template ({type(processor).__name__}). Use the "
                "instruction-tuned version of the model or add a file chat_template.jinja."
            )
        self._markup = _markup_pattern(processor, self.tokenizer)
        source = str(self._owner.chat_template)
        self._thoughts_off = {
            name: False for name in _THOUGHT_VARIABLES if re.search(rf"\b{name}\b", source)
        }
        # Templates of rerankers drop the turn of a user.
        self._knows_documents = all(
            re.search(rf"""["']{role}["']""", source) for role in ("query", "document")
        )

    @property
    def switches(self) -> Mapping[str, bool]:
        """Return the variables with which the template is asked to turn thoughts off."""
        return self._thoughts_off

    def render(self, prompt: Prompt) -> str:
        """Render a prompt in the model's markup, up to the start of the answer.

        If the template does not accept or print a turn of the system, its text begins the turn of
        the user.

        Args:
            prompt: Dialogue that ends with a user turn. Each image becomes one placeholder.

        Raises:
            BackendError: The template does not accept the dialogue's turns, or drops some of its
                text.
            CapabilityError: The template does not print placeholders for images.
        """
        if is_reranking(prompt) and not self._knows_documents:
            prompt = as_dialogue(prompt)
        try:
            return self._render_prompt(prompt)
        except CapabilityError:
            raise
        except BackendError:
            merged = _merge_system_turn(prompt)
            if merged is None:
                raise
            return self._render_prompt(merged)

    def _render_prompt(self, prompt: Prompt) -> str:
        messages, texts = [], []
        for message in prompt.messages:
            content: list[dict[str, str]] = []
            for is_image, parts in itertools.groupby(
                message.parts, lambda part: isinstance(part, ImagePart)
            ):
                if is_image:
                    content.extend({"type": "image"} for _ in parts)
                    continue
                # Adjacent parts are joined first: a special token may span their border.
                texts.append(self._escape_text(parts))
                content.append({"type": "text", "text": texts[-1]})
            has_text_first = any(
                first["type"] == "text" and then["type"] == "image"
                for first, then in itertools.pairwise(content)
            )
            if has_text_first and self._image_markup:
                pieces = [part.get("text", self._image_markup) for part in content]
                content = [{"type": "text", "text": "".join(pieces)}]
            messages.append({"role": message.role, "content": content})
        rendered = self._apply(messages, open_answer=True)
        if missing := [text for text in texts if text.strip() not in rendered]:
            raise BackendError(
                f"The checkpoint's chat template drops a part of the prompt: {missing[0][:60]!r}. "
                "Use the chat template that belongs to the model."
            )
        if prompt.images and self._n_placeholders(rendered) != len(prompt.images):
            raise CapabilityError(
                f"The checkpoint's chat template writes {self._n_placeholders(rendered)} image "
                f"placeholders ({self._placeholder}) for {len(prompt.images)} images, such as "
                f"{prompt.images[0].name}. Use a chat template with images, or prompts without "
                "images (summarize.modalities=[text])."
            )
        return rendered

    def _escape_text(self, parts: Iterable[Part]) -> str:
        """Return adjacent texts and vectors as one text, in which only vectors are special."""
        pieces = [
            part.text.replace(_VECTOR, "") if isinstance(part, TextPart) else _VECTOR
            for part in parts
            if not isinstance(part, ImagePart)
        ]
        text = self.escape_markup("".join(pieces))
        return text.replace(_VECTOR, self.vector_token) if _VECTOR in text else text

    @functools.cached_property
    def vector_token(self) -> str:
        """Return a special token that can stand for a vector, because the template never prints it.

        Raises:
            CapabilityError: The tokenizer has no such token.
        """
        role = "query" if self._knows_documents else "user"
        turn = {"role": role, "content": [{"type": "text", "text": _PROBE}]}
        printed = self._apply([turn], open_answer=True)
        used = {str(getattr(self._owner, name, None)) for name in _PRINTED_TOKENS}
        used |= {str(self.tokenizer.bos_token), str(self.tokenizer.eos_token)}
        special = [self.tokenizer.pad_token, self.tokenizer.unk_token]
        added = self.tokenizer.added_tokens_decoder.values()
        special += [token.content for token in added if token.special]
        for token in filter(None, special):
            is_free = token not in printed and token not in used
            if is_free and len(self.tokenizer(token, add_special_tokens=False)["input_ids"]) == 1:
                return str(token)
        raise CapabilityError(
            "The checkpoint's tokenizer has no special token that its chat template does not use, "
            "so prompts cannot contain vectors. Set recommend.collaborative=none."
        )

    @functools.cached_property
    def vector_token_id(self) -> int:
        """Return the id of `vector_token`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.vector_token))

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

    @functools.cached_property
    def open_thought(self) -> str:
        """Return the end of every prompt that opens a thought ("<think>"), or an empty string."""
        turns = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
        _, _, end = self._apply(turns, open_answer=True).rpartition(_PROBE)
        return end.splitlines()[-1].strip() if opens_thought(end) else ""

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

    @functools.cached_property
    def _expects_strings(self) -> bool:
        """Return whether the template prints contents that are strings, and not lists of parts."""
        parts = [{"type": "text", "text": _PROBE}]
        contents: list[tuple[bool, Any]] = [(False, parts), (True, _PROBE)]
        role = "query" if self._knows_documents else "user"
        errors = []
        for is_string, content in reversed(contents) if self._text_only else contents:
            try:
                text = self._render([{"role": role, "content": content}], open_answer=True)
            except _TEMPLATE_ERRORS as error:
                errors.append(error)
                continue
            # A template that prints a list as it is also prints the keys of its parts.
            if _PROBE in text and not _PRINTED_PART.search(text):
                return is_string
        if errors:
            raise _rejected(["user"], errors[0]) from errors[0]
        raise BackendError(
            "The checkpoint's chat template does not print the text of a user's turn. Use the chat "
            "template that belongs to the model."
        )

    @functools.cached_property
    def _image_markup(self) -> str:
        """Return what the template prints for an image, if it moves images before all text.

        The templates of LLaVA do. Images that follow text are then printed by the caller.
        """
        text, image = {"type": "text", "text": _PROBE}, {"type": "image"}
        if self._placeholder is None or self._expects_strings:
            return ""
        turn = {"role": "user", "content": [text, image]}
        before, _, after = self._apply([turn], open_answer=True).partition(_PROBE)
        if self._placeholder not in before or self._placeholder in after:
            return ""
        start, _, _ = self._apply([{**turn, "content": [text]}], open_answer=True).partition(_PROBE)
        return before.removeprefix(start)

    def _n_placeholders(self, rendered: str) -> int:
        return rendered.count(self._placeholder) if self._placeholder else 0

    def _apply(self, messages: list[dict[str, Any]], *, open_answer: bool) -> str:
        if self._expects_strings:
            messages = [
                {**turn, "content": "".join(part.get("text", "") for part in turn["content"])}
                for turn in messages
            ]
        try:
            return self._render(messages, open_answer=open_answer)
        except _TEMPLATE_ERRORS as cause:
            raise _rejected([turn["role"] for turn in messages], cause) from cause

    def _render(self, messages: list[dict[str, Any]], *, open_answer: bool) -> str:
        text: str = self._owner.apply_chat_template(
            messages, add_generation_prompt=open_answer, tokenize=False, **self._thoughts_off
        )
        return text


def _merge_system_turn(prompt: Prompt) -> Prompt | None:
    """Return a dialogue whose user's turn begins with the system's; None without such turns."""
    roles = [message.role for message in prompt.messages[:2]]
    if roles != ["system", "user"]:
        return None
    system, user, *others = prompt.messages
    parts = (*system.parts, TextPart("\n\n"), *user.parts)
    return replace(prompt, messages=(replace(user, parts=parts), *others))


def _rejected(roles: Sequence[str], cause: Exception) -> BackendError:
    return BackendError(
        f"The checkpoint's chat template rejects the roles {', '.join(roles)}: {cause}. "
        "Use only roles that the model supports."
    )


def _markup_pattern(processor: Any, tokenizer: Any) -> re.Pattern[str]:
    """Compile a pattern for every string that a tokenizer or processor treats specially."""
    marks = {str(token) for token in tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        # Added words and white space are ordinary vocabulary; only markup has brackets or bars.
        if token.special or re.search(r"[<>\[\]{}|]", token.content):
            marks.add(token.content)
    for name in _PRINTED_TOKENS:
        marks.add(str(getattr(processor, name, None) or ""))
    alternatives = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives)) or r"(?!)", re.IGNORECASE)


def _split_token(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]} {token[1:]}" if len(token) > 1 else " "
