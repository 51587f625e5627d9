"""Draft tokens for speculative decoding, by prompt lookup.

A preference repeats most of the previous one, a summary repeats the item's text, and all answers
to one instruction are phrased alike. The tokens that last followed the same n-gram are therefore
proposed as draft tokens, and the model verifies several of them in one decoding step (prompt
lookup decoding as in Transformers, with the n-grams of all prompts and answers so far). Only
tokens that the model would have generated itself are accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Longer n-grams are looked up first. A single token is not specific enough.
_NGRAM_SIZES: Final = (3, 2)
MAX_NGRAM: Final = max(_NGRAM_SIZES)

# A few hundred megabytes. Beyond this, the table is cleared and filled again by later prompts.
_MAX_ENTRIES: Final = 1_000_000

# A draft token costs one position in every row of the batch. Below this acceptance rate, it costs
# more time than it saves on a fully used processor.
_MIN_ACCEPTANCE: Final = 0.3
# Decay of the moving average of acceptance rates.
_DECAY: Final = 0.8
# Number of steps after which all draft tokens are proposed, regardless of their acceptance rates.
_RETRY_INTERVAL: Final = 8


class PromptLookup:
    """Draft tokens from the n-grams of all prompts and answers so far.

    Args:
        n_tokens: Maximum number of draft tokens per sequence and step; 0 disables speculative
            decoding.
    """

    def __init__(self, n_tokens: int) -> None:
        self._n_tokens = n_tokens
        self.clear()

    def clear(self) -> None:
        """Remove all n-grams and reset the acceptance rates."""
        self._next_tokens: dict[tuple[int, ...], int] = {}
        # Moving average of the acceptance rate of the first, second, ... draft token.
        self._acceptance = [1.0] * self._n_tokens
        self._n_steps = 0

    def add(self, ids: Sequence[int], start: int = 0) -> None:
        """Add the n-grams of a sequence.

        Args:
            ids: Token ids of a prompt and of the tokens generated after it.
            start: Index of the first token that is new.
        """
        if not self._n_tokens:
            return
        if len(self._next_tokens) > _MAX_ENTRIES:
            self._next_tokens.clear()
        for index in range(start, len(ids)):
            for size in _NGRAM_SIZES:
                if index >= size:
                    self._next_tokens[tuple(ids[index - size : index])] = ids[index]

    def propose(self, suffixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Propose draft tokens.

        Args:
            suffixes: The last `MAX_NGRAM` tokens of each sequence, prompt included.

        Returns:
            At most `n_tokens` draft tokens for each sequence, possibly none.
        """
        self._n_steps += 1
        if self._n_steps % _RETRY_INTERVAL == 0:
            n_tokens = self._n_tokens
        else:
            n_tokens = sum(rate >= _MIN_ACCEPTANCE for rate in self._acceptance)
        return [self._continue(list(suffix), n_tokens) for suffix in suffixes]

    def update_acceptance(self, n_accepted: Sequence[int], n_proposed: int) -> None:
        """Update the acceptance rates after a decoding step.

        Args:
            n_accepted: How many draft tokens of each sequence were accepted.
            n_proposed: Maximum number of draft tokens proposed for a sequence.
        """
        for index in range(n_proposed):
            rate = sum(n > index for n in n_accepted) / len(n_accepted)
            self._acceptance[index] += (1 - _DECAY) * (rate - self._acceptance[index])

    def _continue(self, tokens: list[int], n_tokens: int) -> list[int]:
        n_given = len(tokens)
        while len(tokens) < n_given + n_tokens:
            found = (self._next_tokens.get(tuple(tokens[-size:])) for size in _NGRAM_SIZES)
            token = next((token for token in found if token is not None), None)
            if token is None:
                break
            tokens.append(token)
        return tokens[n_given:]
