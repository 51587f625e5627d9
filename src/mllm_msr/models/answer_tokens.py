"""Which tokens an answer becomes behind a rendered prompt.

Used by `models/inputs.py`, for answers that are trained and for those that are scored (paper, section
3.3.2), so that both are the same tokens. Whether "yes" is one token, and which, depends on what
stands before it: the answer is always tokenised together with the prompt's end.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from mllm_msr.errors import AnswerTokenError
from mllm_msr.models.chat_template import ChatTemplate

# Longest end of a prompt that is read again to find an answer's id: markup and a few words.
_TAIL_TOKENS: Final = 64
_SHORTEST_TAIL: Final = 8


class AnswerTokens:
    """Finds the ids of answers for one checkpoint.

    Args:
        template: The checkpoint's chat template.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._tokenizer = template.tokenizer
        self._special_ids = frozenset(self._tokenizer.all_special_ids)
        # Prompts of one batch end alike.
        self._choice_ids = functools.lru_cache(maxsize=1024)(self._find_choice_ids)
        self._tail_length = functools.lru_cache(maxsize=1024)(self._find_tail_length)

    def choice_ids(self, prompt_ids: Sequence[int], choices: Sequence[str]) -> tuple[int, ...]:
        """Ids of answers, each as the one token that would follow a rendered prompt.

        The prompt's end is read as text, the answer written behind it as the chat template
        writes answers, and both tokenised together: only that tells "yes" from " yes".

        Args:
            prompt_ids: Ids of the whole prompt.
            choices: Answers ("yes", "no").

        Raises:
            AnswerTokenError: An answer is not exactly one token there, or two are the same.
        """
        n_tokens = self._tail_length(tuple(prompt_ids[-_SHORTEST_TAIL:])) or _TAIL_TOKENS
        return self._choice_ids(tuple(prompt_ids[-n_tokens:]), tuple(choices))

    def answer_ids(
        self, prompt_ids: Sequence[int], answer: str, *, text: str | None
    ) -> tuple[int, ...]:
        """Ids that an answer of any length adds to a prompt.

        Args:
            prompt_ids: Ids of the whole prompt.
            answer: The answer; marks of markup in it are broken apart.
            text: What tokenises to `prompt_ids`; None where that is not known.

        Raises:
            AnswerTokenError: The answer's first letters would merge with the prompt's end.
        """
        answer = self._template.answer_lead + self._template.neutralise(answer)
        if text is None:
            tail, text = self._readable_tail(tuple(prompt_ids[-_TAIL_TOKENS:]))
            whole = self._encode(text + answer)
        else:
            tail, whole = list(prompt_ids), list(self._template.tokenise(text + answer))
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
            whole = self._encode(text + self._template.answer_lead + choice)
            added = whole[len(ids) :]
            if whole[: len(ids)] != ids or len(added) != 1:
                pieces = self._tokenizer.convert_ids_to_tokens(added)
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

    def _readable_tail(self, tail: tuple[int, ...]) -> tuple[list[int], str]:
        """The shortest end of a prompt that survives being written and read again."""
        for n_tokens in range(min(_SHORTEST_TAIL, len(tail)), len(tail) + 1):
            ids = tail[len(tail) - n_tokens :]
            if self._survives(ids):
                return list(ids), self._decode(ids)
        raise AnswerTokenError(
            needed="a prompt whose end its tokenizer reads as it wrote it",
            received=f"{self._tokenizer.convert_ids_to_tokens(list(tail[-8:]))}",
            remedy="check the checkpoint's tokenizer",
        )

    def _survives(self, ids: Sequence[int]) -> bool:
        """Whether ids, written and read again, are the same."""
        return self._encode(self._decode(ids)) == list(ids)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text
