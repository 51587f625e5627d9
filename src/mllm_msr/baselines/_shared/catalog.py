"""Items as columns, histories before a target, and candidate scores from catalog scores.

A model that scores the whole catalog for a chunk of users needs no separate method for candidates:
they are looked up in those scores. Full ranking and candidate tables therefore always agree, and
the score of a candidate cannot depend on the other candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.interfaces import CatalogScorer, TrainingData

# Users whose dense scores of the whole catalog are computed at once.
CHUNK: Final = 512

Indices = npt.NDArray[np.int64]

_TARGET: Final = ["user_id", "position"]


def catalog_of(data: TrainingData) -> tuple[str, ...]:
    """Return all items that are in the items table or have an interaction, sorted."""
    known = pl.concat([data.items["item_id"], data.interactions["item_id"]])
    return tuple(known.unique().sort())


def item_columns(ids: pl.Series, catalog: Sequence[str]) -> Indices:
    """Look up the columns of items.

    Args:
        ids: Item ids.
        catalog: Distinct item ids.

    Returns:
        Shape [n_ids]; -1 for items outside the catalog.
    """
    columns = ids.replace_strict(
        pl.Series(catalog, dtype=pl.String),
        pl.int_range(len(catalog), eager=True),
        default=-1,
        return_dtype=pl.Int64,
    )
    return columns.to_numpy()


def distinct_targets(candidates: pl.DataFrame) -> tuple[pl.DataFrame, Indices]:
    """Collect the distinct targets of candidates, so that each history is processed once.

    Args:
        candidates: Columns `user_id` and `position`, one row per candidate.

    Returns:
        A frame with columns `user_id` and `position`, one row per target in the order of first
        appearance; and the row of each candidate in that frame, shape [n_candidates].
    """
    targets = candidates.select(_TARGET).unique(maintain_order=True)
    rows = candidates.select(_TARGET).join(
        targets.with_row_index("row"), on=_TARGET, how="left", maintain_order="left"
    )
    return targets, rows["row"].to_numpy().astype(np.int64)


def histories(
    users: pl.DataFrame, interactions: pl.DataFrame, *, n_last: int | None = None
) -> pl.DataFrame:
    """Collect the items that each target's user interacted with before the target.

    Args:
        users: Columns `user_id` and `position`, one row per target.
        interactions: `tables.INTERACTIONS`, rows in any order.
        n_last: Number of latest items to return; None for all.

    Returns:
        Columns `row` (of `users`), `item_id` and `age` (0 for the latest item), unordered.
    """
    earlier = (
        users.select(_TARGET)
        .with_row_index("row")
        .join(interactions.select("user_id", "item_id", at="position"), on="user_id")
        .filter(pl.col("at") < pl.col("position"))
    )
    age = pl.col("at").rank("ordinal", descending=True).over("row").cast(pl.Int64) - 1
    aged = earlier.select("row", "item_id", age.alias("age"))
    return aged if n_last is None else aged.filter(pl.col("age") < n_last)


def score_candidates(
    model: CatalogScorer,
    candidates: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    unknown: float = 0.0,
) -> pl.DataFrame:
    """Implement `Recommender.score` for a model that scores its whole catalog.

    Args:
        model: A fitted model.
        candidates: As for `Recommender.score`.
        interactions: As for `Recommender.score`.
        unknown: Score of items outside the catalog.
    """
    users, row = distinct_targets(candidates)
    column = item_columns(candidates["item_id"], model.catalog)
    scores = np.full(len(row), unknown, dtype=np.float64)
    order = np.argsort(row, kind="stable")
    start = 0
    for chunk, values in model.score_catalog(users, interactions):
        end = start + chunk.height
        first, last = np.searchsorted(row[order], [start, end])
        known = order[first:last]
        known = known[column[known] >= 0]
        scores[known] = values[row[known] - start, column[known]]
        start = end
    return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))
