"""What baselines share that need no network: items as columns, histories as sparse rows, targets.

A model that can write down the scores of all items for a chunk of users needs no other way of
scoring: candidates are looked up in those rows. Full ranking and candidate tables thus cannot
disagree, and a candidate's score cannot depend on its company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.interfaces import CatalogScorer, TrainingData

CHUNK: Final = 512

Codes = npt.NDArray[np.int64]

_TARGET: Final = ["user_id", "position"]


def catalog_of(data: TrainingData) -> tuple[str, ...]:
    """All items that are known or were chosen, sorted."""
    known = pl.concat([data.items["item_id"], data.interactions["item_id"]])
    return tuple(known.unique().sort())


def item_codes(ids: pl.Series, catalog: Sequence[str]) -> Codes:
    """Columns of items; -1 for those that the catalog lacks.

    Args:
        ids: Item ids.
        catalog: Distinct item ids.

    Returns:
        Shape [n_ids].
    """
    codes = ids.replace_strict(
        pl.Series(catalog, dtype=pl.String),
        pl.int_range(len(catalog), eager=True),
        default=-1,
        return_dtype=pl.Int64,
    )
    return codes.to_numpy()


def targets_of(candidates: pl.DataFrame) -> tuple[pl.DataFrame, Codes]:
    """The distinct targets that candidates belong to, so that each history is read once.

    Args:
        candidates: Columns `user_id` and `position`, one row per candidate.

    Returns:
        Columns `user_id` and `position`, one row per target, in the order of their first
        candidates; and each candidate's row there, [n_candidates].
    """
    targets = candidates.select(_TARGET).unique(maintain_order=True)
    rows = candidates.select(_TARGET).join(
        targets.with_row_index("row"), on=_TARGET, how="left", maintain_order="left"
    )
    return targets, rows["row"].to_numpy().astype(np.int64)


def histories(
    users: pl.DataFrame, interactions: pl.DataFrame, *, n_last: int | None = None
) -> pl.DataFrame:
    """What each target's user chose before it.

    Args:
        users: Columns `user_id` and `position`, one row per target.
        interactions: `tables.INTERACTIONS`, rows in any order.
        n_last: Only so many items, the latest; all where it is `None`.

    Returns:
        Columns `row` (of `users`), `item_id` and `age` (0 for the latest item), in no order.
    """
    seen = (
        users.select(_TARGET)
        .with_row_index("row")
        .join(interactions.select("user_id", "item_id", at="position"), on="user_id")
        .filter(pl.col("at") < pl.col("position"))
    )
    age = pl.col("at").rank("ordinal", descending=True).over("row").cast(pl.Int64) - 1
    aged = seen.select("row", "item_id", age.alias("age"))
    return aged if n_last is None else aged.filter(pl.col("age") < n_last)


def history_matrix(
    users: pl.DataFrame,
    interactions: pl.DataFrame,
    catalog: Sequence[str],
    *,
    decay: float = 1.0,
    n_last: int | None = None,
) -> sparse.csr_array:
    """Histories as weighted rows; items that the catalog lacks are left out.

    Args:
        users: Columns `user_id` and `position`, one row per target.
        interactions: `tables.INTERACTIONS`.
        catalog: Distinct item ids.
        decay: Weight of an item over that of the next later one, in (0, 1].
        n_last: As for `histories`.

    Returns:
        Shape [n_targets, n_items]; the latest item weighs 1.
    """
    seen = histories(users, interactions, n_last=n_last)
    codes = item_codes(seen["item_id"], catalog)
    known = codes >= 0
    weights = np.power(decay, seen["age"].to_numpy()[known], dtype=np.float32)
    return sparse.csr_array(
        (weights, (seen["row"].to_numpy()[known], codes[known])),
        shape=(users.height, len(catalog)),
    )


def in_chunks(
    users: pl.DataFrame, rows: sparse.csr_array
) -> Iterator[tuple[pl.DataFrame, sparse.csr_array]]:
    """Targets and their rows, so many at a time that dense scores of all items fit."""
    for start in range(0, users.height, CHUNK):
        yield users.slice(start, CHUNK), rows[start : start + CHUNK]


def chosen_matrix(interactions: pl.DataFrame, catalog: Sequence[str]) -> sparse.csr_array:
    """Who chose what, whenever and how often: ones in shape [n_users, n_items]."""
    pairs = interactions.select("user_id", "item_id").unique()
    users = pairs["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
    items = item_codes(pairs["item_id"], catalog)
    ones = np.ones(pairs.height, dtype=np.float32)
    n_users = int(users.max(initial=-1)) + 1
    return sparse.csr_array((ones, (users, items)), shape=(n_users, len(catalog)))


def score_candidates(
    model: CatalogScorer,
    candidates: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    unknown: float = 0.0,
) -> pl.DataFrame:
    """`Recommender.score` of a model that scores its whole catalog.

    Args:
        model: A fitted model.
        candidates: As for `Recommender.score`.
        interactions: As for `Recommender.score`.
        unknown: Score of items that the catalog lacks.
    """
    users, row = targets_of(candidates)
    column = item_codes(candidates["item_id"], model.catalog)
    scores = np.full(len(row), unknown, dtype=np.float64)
    order = np.argsort(row, kind="stable")
    start = 0
    for chunk, values in model.score_catalog(users, interactions):
        first, last = np.searchsorted(row[order], [start, start + chunk.height])
        start += chunk.height
        here = order[first:last]
        here = here[column[here] >= 0]
        scores[here] = values[row[here] - start + chunk.height, column[here]]
    return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))
