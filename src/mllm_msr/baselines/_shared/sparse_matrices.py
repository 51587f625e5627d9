"""Histories and learned weights as sparse matrices, for baselines that need no neural network.

This module needs SciPy, which belongs to the extra `baselines`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.baselines._shared.catalog import CHUNK, histories, item_columns
from mllm_msr.baselines._shared.state import State

_PARTS: Final = ("data", "indices", "indptr")


def history_matrix(
    users: pl.DataFrame,
    interactions: pl.DataFrame,
    catalog: Sequence[str],
    *,
    decay: float = 1.0,
    n_last: int | None = None,
) -> sparse.csr_array:
    """Build weighted rows of histories; items outside the catalog are skipped.

    Args:
        users: Columns `user_id` and `position`, one row per target.
        interactions: `tables.INTERACTIONS`.
        catalog: Distinct item ids.
        decay: Factor from the weight of an item to that of the item before it, in (0, 1].
        n_last: As for `histories`.

    Returns:
        Shape [n_targets, n_items]; the latest item has weight 1.
    """
    earlier = histories(users, interactions, n_last=n_last)
    columns = item_columns(earlier["item_id"], catalog)
    known = columns >= 0
    weights = np.power(decay, earlier["age"].to_numpy()[known], dtype=np.float32)
    return sparse.csr_array(
        (weights, (earlier["row"].to_numpy()[known], columns[known])),
        shape=(users.height, len(catalog)),
    )


def in_chunks(
    users: pl.DataFrame, rows: sparse.csr_array
) -> Iterator[tuple[pl.DataFrame, sparse.csr_array]]:
    """Yield targets and their rows in chunks whose dense catalog scores fit into memory."""
    for start in range(0, users.height, CHUNK):
        yield users.slice(start, CHUNK), rows[start : start + CHUNK]


def interaction_matrix(interactions: pl.DataFrame, catalog: Sequence[str]) -> sparse.csr_array:
    """Build the binary user-item matrix.

    Returns:
        Shape [n_users, n_items]; repeated interactions count once.
    """
    pairs = interactions.select("user_id", "item_id").unique()
    users = pairs["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
    items = item_columns(pairs["item_id"], catalog)
    ones = np.ones(pairs.height, dtype=np.float32)
    n_users = int(users.max(initial=-1)) + 1
    return sparse.csr_array((ones, (users, items)), shape=(n_users, len(catalog)))


def pack_matrix(name: str, matrix: sparse.csr_array) -> dict[str, npt.NDArray[Any]]:
    """Return a sparse matrix as named arrays."""
    return {f"{name}.{part}": getattr(matrix, part) for part in _PARTS}


def packed_names(name: str) -> list[str]:
    """Return the names of the arrays that `pack_matrix` returns."""
    return [f"{name}.{part}" for part in _PARTS]


def unpack_matrix(name: str, state: State) -> sparse.csr_array:
    """Rebuild a packed sparse matrix of shape [n_items, n_items].

    Raises:
        ValueError: The arrays do not fit the catalog.
    """
    n_items = len(state.catalog)
    parts = tuple(state.arrays[part] for part in packed_names(name))
    return sparse.csr_array(parts, shape=(n_items, n_items))
