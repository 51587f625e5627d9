"""Recommendations for several users: a sequence of lists, a frame, and covers in notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, final

import polars as pl

from mllm_msr import tables
from mllm_msr.errors import UsageError
from mllm_msr.recommend.lists import RecommendationList, lists_frame, lists_html

# Lists that a notebook shows; more would make the page large.
_N_SHOWN: Final = 5


@final
class RecommendationBatch:
    """Lists of several users, in their order.

    Args:
        lists: One list per user.
    """

    def __init__(self, lists: Sequence[RecommendationList]) -> None:
        self._lists = {found.user_id: found for found in lists}

    def __len__(self) -> int:
        return len(self._lists)

    def __iter__(self) -> Iterator[RecommendationList]:
        return iter(self._lists.values())

    def __getitem__(self, user_id: str) -> RecommendationList:
        """Return the list of a user.

        Raises:
            UsageError: There is no list of this user.
        """
        try:
            return self._lists[user_id]
        except KeyError:
            raise UsageError(
                f"There is no list for the user {user_id!r}. There are {len(self)} lists; add the "
                "user to those of recommend()."
            ) from None

    def to_polars(self) -> pl.DataFrame:
        """Return one row per user and item, see `RecommendationList.to_polars`."""
        return lists_frame(self)

    def to_pandas(self) -> Any:
        """Return `to_polars` as a pandas frame.

        Raises:
            UsageError: pandas is not installed.
        """
        return tables.to_pandas(self.to_polars())

    def __repr__(self) -> str:
        n_items = sum(map(len, self))
        return f"RecommendationBatch({len(self):,} users, {n_items:,} recommendations)"

    def _repr_html_(self) -> str:
        """Return the first lists for a notebook."""
        shown = list(self)[:_N_SHOWN]
        return lists_html(shown, n_more=len(self) - len(shown))
