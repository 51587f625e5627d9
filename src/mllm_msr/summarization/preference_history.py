"""Read a preference history: which preference of a user is the latest, and what it has read.

A preference history is a user's rows of `tables.PREFERENCES`, one per block. Recommendation and the
service take the latest preference from here.
"""

from __future__ import annotations

import polars as pl


def latest_preference(history: pl.DataFrame) -> str:
    """Return the preference that has read the most items; "" if there is none.

    Args:
        history: One user's rows of `tables.PREFERENCES`, in any order.
    """
    if history.is_empty():
        return ""
    return str(history.sort("n_items")["preference"][-1])


def n_items_read(history: pl.DataFrame) -> int:
    """Return how many items the latest preference has read; 0 if there is none.

    Args:
        history: One user's rows of `tables.PREFERENCES`, in any order.
    """
    return 0 if history.is_empty() else int(history.select(pl.col("n_items").max()).item())
