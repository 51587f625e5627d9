"""Token ids of an answer after a rendered prompt.

Used by `models/inputs.py` both for training targets and for scored answers (paper, section 3.3.2),
so that both are the same tokens. Whether "yes" is a single token, and which one, depends on the
text before it. The answer is therefore always tokenized together with the end of the prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from mllm_msr.errors import AnswerTokenError
from mllm_msr.models.chat_template import ChatTemplate

# Longest end of a prompt that is tokenized again: enough for the markup and a few words.
_TAIL_TOKENS: Final = 64
_SHORTEST_TAIL: Final = 8


class AnswerTokens:
    """Token ids of answers for one checkpoint.

    Args:
        template: The checkpoint's chat template.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._tokenizer = template.tokenizer
        self._special_ids = frozenset(self._tokenizer.all_special_ids)
        # The prompts of a batch usually end with the same tokens.
        self._choice_ids = functools.lru_cache(maxsize=1024)(self._find_choice_ids)
        self._tail_length = functools.lru_cache(maxsize=1024)(self._find_tail_length)

    def choice_ids(self, prompt_ids: Sequence[int], choices: Sequence[str]) -> tuple[int, ...]:
        """Return the token id of each choice as the first token after a rendered prompt.

        The end of the prompt is decoded, the choice is appended the way the chat template writes
        answers, and both are tokenized together. Only this distinguishes "yes" from " yes".

        Args:
            prompt_ids: Token ids of the whole prompt.
            choices: Answers ("yes", "no").

        Raises:
            AnswerTokenError: A choice is not a single token there, or two choices share a token.
        """
        n_tokens = self._tail_length(tuple(prompt_ids[-_SHORTEST_TAIL:])) or _TAIL_TOKENS
        return self._choice_ids(tuple(prompt_ids[-n_tokens:]), tuple(choices))

    def answer_ids(
        self, prompt_ids: Sequence[int], answer: str, *, text: str | None
    ) -> tuple[int, ...]:
        """Return the token ids that an answer of any length adds to a prompt.

        Args:
            prompt_ids: Token ids of the whole prompt.
            answer: The answer. Special tokens in its text are escaped.
            text: The text that tokenizes to `prompt_ids`; None if it is not known.

        Raises:
            AnswerTokenError: The first characters of the answer merge with the prompt's end.
        """
        answer = self._template.answer_lead + self._template.escape_markup(answer)
        if text is None:
            tail, text = self._decodable_tail(tuple(prompt_ids[-_TAIL_TOKENS:]))
            whole = self._encode(text + answer)
        else:
            tail, whole = list(prompt_ids), list(self._template.tokenize(text + answer))
        if whole[: len(tail)] != tail or len(whole) == len(tail):
            raise AnswerTokenError(
                f"The answer {answer!r} merges with the last token of the prompt. "
                "Use a chat template that ends the answer's opening with a special token."
            )
        return tuple(whole[len(tail) :])

    def _find_tail_length(self, tail: tuple[int, ...]) -> int:
        """Return how many of the prompt's last tokens determine the tokens that follow.

        Nothing merges across a special token, so the last special token is the best start.
        Returns 0 if `tail` does not survive a round trip through the tokenizer.
        """
        special = [index for index, token_id in enumerate(tail) if token_id in self._special_ids]
        for start in [*special[-1:], 0]:
            if self._round_trips(tail[start:]):
                return len(tail) - start
        return 0

    def _find_choice_ids(self, tail: tuple[int, ...], choices: tuple[str, ...]) -> tuple[int, ...]:
        ids, text = self._decodable_tail(tail)
        found = []
        for choice in choices:
            whole = self._encode(text + self._template.answer_lead + choice)
            added = whole[len(ids) :]
            if whole[: len(ids)] != ids or len(added) != 1:
                pieces = self._tokenizer.convert_ids_to_tokens(added)
                raise AnswerTokenError(
                    f"The choice {choice!r} must be exactly one token after the rendered prompt, "
                    f"but it is {len(added)} tokens: {pieces}. Choose other words as answers."
                )
            found.append(added[0])
        if len(set(found)) != len(found):
            raise AnswerTokenError(
                f"The choices {list(choices)} do not differ in their first token: their token ids "
                f"are {found}. Choose other words as answers."
            )
        return tuple(found)

    def _decodable_tail(self, tail: tuple[int, ...]) -> tuple[list[int], str]:
        """Return the shortest end of a prompt that survives decoding and encoding."""
        for n_tokens in range(min(_SHORTEST_TAIL, len(tail)), len(tail) + 1):
            ids = tail[len(tail) - n_tokens :]
            if self._round_trips(ids):
                return list(ids), self._decode(ids)
        raise AnswerTokenError(
            "Decoding and encoding the end of the prompt changes its tokens: "
            f"{self._tokenizer.convert_ids_to_tokens(list(tail[-8:]))}. "
            "Check the checkpoint's tokenizer files."
        )

    def _round_trips(self, ids: Sequence[int]) -> bool:
        return self._encode(self._decode(ids)) == list(ids)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text
