"""What an answer is likely to say next: what followed the same words the last time they were said.

A preference repeats most of the one before it, a summary the item's text, and all answers to one
instruction are phrased alike. So the tokens that once followed the last two or three are guessed,
and the model reads several guesses in one step where it would have written one token (prompt
lookup decoding, as in Transformers, with the words of all prompts and answers for one memory).
Only what the model would have written itself is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# A longer match comes first. One token alone says too little.
_MATCHES: Final = (3, 2)
LONGEST_MATCH: Final = max(_MATCHES)

# Some hundred megabytes; what is forgotten then is learned again from the next prompts.
_MOST_ENTRIES: Final = 1_000_000

# A guess costs every row of a batch a place in the step: one that is right less often than this
# costs more than it saves on a processor that is busy already.
_WORTH_IT: Final = 0.3
_FADING: Final = 0.8
# After so many steps, guesses that were given up are tried again.
_RETRIED: Final = 8


class Speculation:
    """Guesses for answers in the making.

    Args:
        n_tokens: Most tokens guessed at once for an answer; 0 never guesses.
    """

    def __init__(self, n_tokens: int) -> None:
        self._n_tokens = n_tokens
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._followers: dict[tuple[int, ...], int] = {}
        # Of the first, second, ... guessed token: share of answers for which it was right, of late.
        self._hits = [1.0] * self._n_tokens
        self._n_steps = 0

    def learn(self, ids: Sequence[int], start: int = 0) -> None:
        """Remember what follows what.

        Args:
            ids: Tokens of a prompt and of what has been written behind it.
            start: Those before this place are known already.
        """
        if not self._n_tokens:
            return
        if len(self._followers) > _MOST_ENTRIES:
            self._followers.clear()
        for place in range(start, len(ids)):
            for length in _MATCHES:
                if place >= length:
                    self._followers[tuple(ids[place - length : place])] = ids[place]

    def guess(self, endings: Sequence[Sequence[int]]) -> list[list[int]]:
        """What may come next.

        Args:
            endings: The last tokens of each answer, or of its prompt where it is shorter.

        Returns:
            At most `n_tokens` for each, perhaps none.
        """
        n_tokens = self._n_worth_it()
        return [self._continued(list(ending), n_tokens) for ending in endings]

    def judge(self, right: Sequence[int], n_guessed: int) -> None:
        """Say what guesses were worth.

        Args:
            right: How many guessed tokens of each answer were right.
            n_guessed: Most tokens that were guessed for one of them.
        """
        for place in range(n_guessed):
            share = sum(n > place for n in right) / len(right)
            self._hits[place] += (1 - _FADING) * (share - self._hits[place])

    def _n_worth_it(self) -> int:
        self._n_steps += 1
        if self._n_steps % _RETRIED == 0:
            return self._n_tokens
        return sum(hits >= _WORTH_IT for hits in self._hits)

    def _continued(self, tokens: list[int], n_tokens: int) -> list[int]:
        n_given = len(tokens)
        while len(tokens) < n_given + n_tokens:
            found = (self._followers.get(tuple(tokens[-length:])) for length in _MATCHES)
            following = next((token for token in found if token is not None), None)
            if following is None:
                break
            tokens.append(following)
        return tokens[n_given:]
