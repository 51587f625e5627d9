"""Preference histories: the latest preference of a user and the number of items it is based on.

A preference history is a user's rows of `tables.PREFERENCES`, one per block. Recommendation and the
service use these functions to find the latest preference.
"""

from __future__ import annotations

import polars as pl


def latest_preference(history: pl.DataFrame) -> str:
    """Return the preference that is based on the most items; "" if there is none.

    Args:
        history: One user's rows of `tables.PREFERENCES`, in any order.
    """
    if history.is_empty():
        return ""
    return str(history.sort("n_items")["preference"][-1])


def n_items_read(history: pl.DataFrame) -> int:
    """Return the number of items that the latest preference is based on; 0 if there is none.

    Args:
        history: One user's rows of `tables.PREFERENCES`, in any order.
    """
    return 0 if history.is_empty() else int(history.select(pl.col("n_items").max()).item())
