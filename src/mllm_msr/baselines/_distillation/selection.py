"""Selection of the pairs of users and items that the teacher scores.

A call of the teacher is expensive, so it is asked where the student is unsure: in the lists whose
distribution over new items has the highest entropy, and there about the items that contribute most
to it. Only what a user has not interacted with is selected, so no target is among the items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._shared.catalog import item_columns
from mllm_msr.interfaces import CatalogScorer

_KEY: Final = ["user_id", "position"]


def unsure_pairs(
    student: CatalogScorer,
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    list_size: int,
    budget: int,
) -> pl.DataFrame:
    """Select the pairs that the student is most unsure about.

    Args:
        student: Fitted student; the softmax of its scores is its distribution over new items.
        targets: Columns `user_id` and `position`: the histories to select items for.
        interactions: `tables.INTERACTIONS`. None of a user's items is selected, whether before or
            after the target.
        list_size: Items per target, fewer if a user has interacted with almost all.
        budget: Maximum number of pairs.

    Returns:
        Columns `user_id`, `position` and `item_id`: complete lists, those with the highest entropy,
        in the order of the targets.
    """
    keys = targets.select(_KEY).unique(maintain_order=True)
    catalog = student.catalog
    size = min(list_size, len(catalog))
    chosen, entropies = [], []
    for chunk, scores in student.score_catalog(keys, interactions):
        shares = _contributions(scores, _interacted(chunk, interactions, catalog))
        columns = np.argpartition(-shares, size - 1, axis=1)[:, :size]
        chosen.append(np.where(np.take_along_axis(shares, columns, 1) >= 0, columns, -1))
        entropies.append(np.maximum(shares, 0).sum(axis=1))
    if not chosen:
        return keys.with_columns(item_id=pl.lit("")).clear()
    n_lists = min(budget // size, keys.height)
    unsure = np.sort(np.argsort(-np.concatenate(entropies), kind="stable")[:n_lists])
    columns = np.concatenate(chosen)[unsure]
    items = pl.Series("item_id", catalog, dtype=pl.String).gather(columns.clip(0).ravel())
    pairs = keys[np.repeat(unsure, size)].with_columns(items)
    return pairs.filter(pl.Series(columns.ravel() >= 0))


def _contributions(
    scores: npt.NDArray[np.float32], interacted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return the contribution of each item to the entropy, -1 for items of the user.

    Args:
        scores: Shape [n_targets, n_items].
        interacted: Items that the user has interacted with, [n_targets, n_items].
    """
    logits = np.where(interacted, np.float32(-np.inf), scores)
    best = logits.max(axis=1, keepdims=True)
    logits -= np.where(np.isfinite(best), best, 0.0)
    weights = np.exp(logits)
    total = np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-30))
    surprise = np.log(total) - np.where(interacted, 0.0, logits)
    return np.where(interacted, -1.0, weights / total * surprise)


def _interacted(
    targets: pl.DataFrame, interactions: pl.DataFrame, catalog: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Return which items the user of each target has interacted with, [n_targets, n_items]."""
    rows = (
        targets.select("user_id")
        .with_row_index("row")
        .join(interactions.select("user_id", "item_id"), on="user_id")
    )
    columns = item_columns(rows["item_id"], catalog)
    known = columns >= 0
    interacted = np.zeros((targets.height, len(catalog)), dtype=bool)
    interacted[rows["row"].to_numpy()[known], columns[known]] = True
    return interacted
