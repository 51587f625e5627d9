"""Search for ids that are similar to an unknown one, for messages and the page of the service."""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Sequence
from typing import Final

from mllm_msr.models.prefix_support import common_prefix_length

_N_COMPARED: Final = 2_000
_MAX_ZEROS: Final = 20


def similar_ids(wanted: str, ids: Sequence[str], *, limit: int = 3) -> list[str]:
    """Return the ids that are most similar to a text, those with the same beginning first.

    Ids are often numbered, so that many are equally similar; the beginning then matters most. Ids
    that differ only in leading zeros, which spreadsheets remove, come before all others. Only the
    ids next to the text in sorted order are compared, so that the search takes milliseconds
    whatever the number of ids.

    Args:
        wanted: The text.
        ids: Ids, sorted.
        limit: Maximum number of ids to return.

    Example:
        >>> similar_ids("usre1", ["user1", "user2", "zoe"], limit=1)
        ['user1']
        >>> similar_ids("7", ["0007", "0070"], limit=1)
        ['0007']
    """
    middle = bisect.bisect_left(ids, wanted)
    start = max(0, min(middle - _N_COMPARED // 2, len(ids) - _N_COMPARED))
    folded = {one.casefold(): one for one in ids[start : start + _N_COMPARED]}
    text = wanted.casefold()
    matches = difflib.get_close_matches(text, folded, n=_N_COMPARED)
    ratio = difflib.SequenceMatcher(b=text)

    def order(match: str) -> tuple[int, float, str]:
        ratio.set_seq1(match)
        return -common_prefix_length(match, text), -ratio.ratio(), match

    matches.sort(key=order)
    padded = _with_other_zeros(wanted, ids)
    return list(dict.fromkeys([*padded, *(folded[match] for match in matches)]))[:limit]


def _with_other_zeros(wanted: str, ids: Sequence[str]) -> list[str]:
    """Return the sorted ids that equal a text except for leading zeros."""
    digits = wanted.lstrip("0")
    forms = ["0" * n + digits for n in range(_MAX_ZEROS + 1)] if digits else []
    places = [(bisect.bisect_left(ids, form), form) for form in forms if form != wanted]
    return [form for at, form in places if at < len(ids) and ids[at] == form]
