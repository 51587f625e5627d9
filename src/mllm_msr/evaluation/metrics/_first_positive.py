"""Distribution of the rank of the first positive in a list, shared by HR@k and MRR@k."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mllm_msr.evaluation.ranked_lists import Counts, Floats, RankedLists


def first_positive_ranks(lists: RankedLists, *, k: int) -> Iterator[tuple[Counts, Floats]]:
    """Yield the possible ranks of the first positive of each list, and their probabilities.

    The first positive is in the first tie group of its list, at the j-th row of that group for
    j = 1, 2, ... in random order. Ranks beyond k have the probability 0.

    Args:
        lists: Ranked lists.
        k: Largest rank of interest.

    Yields:
        For each j from 1 to k, the rank and its probability, both of shape [n_lists].
    """
    first = lists.positives_before == 0
    n_before, size, positives = lists.n_before[first], lists.size[first], lists.positives[first]
    probability = positives / size
    for j in range(1, k + 1):
        rank = n_before + j
        yield rank, np.where(rank <= k, probability, 0.0)
        rest = size - j
        no_positive_yet = np.maximum(rest - positives + 1, 0) / np.maximum(rest, 1)
        probability = np.where(rest > 0, probability * no_positive_yet, 0.0)
