"""Full-catalog ranking: the rank of each true item, and the top of each list.

Runs between scoring and the metrics. The paper (section "Experiments") ranks 21 candidates; the
full catalog is the stricter test. Scores arrive in chunks of users and are reduced immediately to
`tables.RANKS` and `tables.TOP`, so that memory does not grow with the number of users.

Items that the user interacted with before the target are not candidates. The ranks count ties
separately; the top lists, which need one order, break ties by item id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr import tables
from mllm_msr.errors import DataError
from mllm_msr.evaluation.per_user import rank_counts
from mllm_msr.evaluation.score_checks import KEYS, check_scores

Scores = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

FULL: Final = "full"
DEPTH: Final = 20

# Maximum size of the working copy of a chunk; a few temporary arrays have the same size.
_BLOCK_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Ranking:
    """Result of ranking the full catalog with one model.

    Attributes:
        ranks: `tables.RANKS` with negatives "full".
        top: `tables.TOP`.
    """

    ranks: pl.DataFrame
    top: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _Catalog:
    """Index of the items by their column in the score array.

    Attributes:
        item_ids: Item id of each column.
        column_of: Columns `item_id` and `column`.
        order: Position of each column in the order of item ids.
    """

    item_ids: pl.Series
    column_of: pl.DataFrame
    order: Indices

    @classmethod
    def index(cls, catalog: Sequence[str]) -> _Catalog:
        """Index item ids that are given in the order of the columns."""
        ids = pl.Series("item_id", catalog, dtype=pl.String)
        columns = pl.DataFrame({"item_id": ids}).with_row_index("column")
        order = np.empty(len(ids), dtype=np.int64)
        order[columns.sort("item_id")["column"].to_numpy()] = np.arange(len(ids))
        return cls(ids, columns.with_columns(pl.col("column").cast(pl.Int64)), order)


def rank_catalog(
    chunks: Iterable[tuple[pl.DataFrame, Scores]],
    targets: pl.DataFrame,
    *,
    catalog: Sequence[str],
    interactions: pl.DataFrame,
    depth: int = DEPTH,
    model: str = "scores",
) -> Ranking:
    """Rank the catalog for every user by dense scores.

    Args:
        chunks: Chunks of users (column `user_id`) and their scores of shape [n_users, n_items],
            float32, finite, as `CatalogScorer.score_catalog` yields them. Each target's user
            occurs exactly once.
        targets: Rows of `tables.CANDIDATES` with label 1 of one fold, one per user.
        catalog: Item ids in the order of the columns.
        interactions: `tables.INTERACTIONS`. A user's items at positions before the target are
            not candidates, except the target itself.
        depth: Length of the top lists.
        model: Name of the model in error messages.

    Raises:
        DataError: A target is outside the catalog, the users are not those of the targets, or
            scores have the wrong shape or are not finite.
    """
    items = _Catalog.index(catalog)
    wanted = targets.select("fold", "user_id", "position", "item_id")
    wanted = wanted.join(items.column_of, on="item_id", how="left", maintain_order="left")
    outside = wanted.filter(pl.col("column").is_null())
    if outside.height:
        raise DataError(
            f"{outside.height} targets are not in the catalog of {model!r} ({len(catalog)} items), "
            f"such as {outside['item_id'][0]!r}. Score the full catalog, including items without "
            "interactions."
        )
    seen = _seen_columns(wanted, interactions, items)
    ranks, top, n_users = [tables.empty(tables.RANKS)], [tables.empty(tables.TOP)], 0
    for users, scores in _blocks(chunks, n_items=len(catalog), model=model):
        rows = users.select("user_id").join(wanted, on="user_id", maintain_order="left")
        if rows.height != users.height:
            n_unknown = users.height - rows.height
            raise _wrong_users(f"{n_unknown} users of a chunk have no target", model=model)
        masked = rows.with_row_index("row").select("row", "user_id").join(seen, on="user_id")
        scores[masked["row"], masked["column"]] = -np.inf
        ranks.append(_ranks(rows, scores, n_seen=_counts(masked["row"], rows.height)))
        top.append(_top(rows, scores, items, depth=depth))
        n_users += rows.height
    ranking = Ranking(pl.concat(ranks).sort(KEYS), pl.concat(top).sort("fold", "user_id", "rank"))
    if ranking.ranks["user_id"].n_unique() != wanted.height or n_users != wanted.height:
        raise _wrong_users(f"{n_users} rows for {wanted.height} users", model=model)
    return ranking


def rank_scores(scores: pl.DataFrame, *, depth: int = DEPTH, model: str = "scores") -> Ranking:
    """Rank the catalog by a score table, for models that score one candidate at a time.

    Args:
        scores: Columns of `tables.SCORES`: every candidate of some users, one positive each.
            Candidates without a score rank last and are not in the top lists.
        depth: Length of the top lists.
        model: Name of the model in error messages.

    Raises:
        DataError: The scores cannot be ranked, or a list does not have exactly one positive.
    """
    check_scores(scores, model=model)
    ordered = scores.drop_nulls("score").sort(
        "fold", "user_id", "score", "item_id", descending=[False, False, True, False]
    )
    rank = pl.int_range(1, pl.len() + 1).over("fold", "user_id")
    top = ordered.with_columns(rank=rank).filter(pl.col("rank") <= depth)
    return Ranking(rank_counts(scores, model=model), tables.conform(top, tables.TOP, name="top"))


def _seen_columns(
    wanted: pl.DataFrame, interactions: pl.DataFrame, items: _Catalog
) -> pl.DataFrame:
    """Return distinct (user_id, column) of catalog items that are not candidates."""
    before = wanted.select("user_id", target="item_id", before="position")
    earlier = interactions.select("user_id", "item_id", "position").join(before, on="user_id")
    return (
        earlier.filter(
            (pl.col("position") < pl.col("before")) & (pl.col("item_id") != pl.col("target"))
        )
        .join(items.column_of, on="item_id")
        .select("user_id", "column")
        .unique()
    )


def _blocks(
    chunks: Iterable[tuple[pl.DataFrame, Scores]], *, n_items: int, model: str
) -> Iterator[tuple[pl.DataFrame, Scores]]:
    """Yield a few users at a time with their checked scores in a writable, reused buffer."""
    n_rows = max(1, _BLOCK_BYTES // (4 * max(1, n_items)))
    buffer = np.empty((n_rows, n_items), dtype=np.float32)
    for users, scores in chunks:
        if scores.shape != (users.height, n_items):
            raise DataError(
                f"The scores of {model!r} have the shape {scores.shape} instead of "
                f"{(users.height, n_items)}. Yield one row per user and one column per item of "
                "the catalog."
            )
        for start in range(0, users.height, n_rows):
            part = users.slice(start, n_rows)
            block = buffer[: part.height]
            np.copyto(block, scores[start : start + n_rows])
            # NaN propagates through both reductions, an infinity through one of them.
            if not np.isfinite(block.max(initial=0.0) - block.min(initial=0.0)):
                bad = int((~np.isfinite(block)).sum())
                raise DataError(
                    f"{bad} scores of {model!r} among {part.height} users are NaN or infinite. "
                    "Every item needs a finite score."
                )
            yield part, block


def _ranks(rows: pl.DataFrame, scores: Scores, *, n_seen: Indices) -> pl.DataFrame:
    """Return `tables.RANKS` of one block in which seen items have the score minus infinity."""
    target = scores[np.arange(rows.height), rows["column"].to_numpy()][:, None]  # [n_users, 1]
    n_better = np.count_nonzero(scores > target, axis=1)
    n_tied = np.count_nonzero(scores == target, axis=1) - 1
    counts = rows.with_columns(
        negatives=pl.lit(FULL),
        n_better=pl.Series(n_better),
        n_tied=pl.Series(n_tied),
        n_negatives=pl.Series(scores.shape[1] - 1 - n_seen),
    )
    return tables.conform(counts, tables.RANKS, name="ranks")


def _top(rows: pl.DataFrame, scores: Scores, items: _Catalog, *, depth: int) -> pl.DataFrame:
    """Return `tables.TOP` of one block, with ties in the order of item ids."""
    n_items = scores.shape[1]
    k = min(depth, n_items)
    threshold = np.partition(scores, n_items - k, axis=1)[:, n_items - k, None]  # [n_users, 1]
    row, column = np.nonzero((scores >= threshold) & (scores > -np.inf))
    values = scores[row, column]
    order = np.lexsort((items.order[column], -values, row))
    row, column, values = row[order], column[order], values[order]
    first = np.concatenate([[0], np.cumsum(_counts(row, rows.height))])[:-1]
    rank = np.arange(len(row)) - first[row] + 1
    within = rank <= k
    top = rows.select("fold", "user_id")[row[within]].with_columns(
        rank=pl.Series(rank[within]),
        item_id=items.item_ids.gather(column[within]),
        score=pl.Series(values[within]),
    )
    return tables.conform(top, tables.TOP, name="top")


def _counts(rows: npt.ArrayLike, n_rows: int) -> Indices:
    return np.bincount(np.asarray(rows, dtype=np.int64), minlength=n_rows)


def _wrong_users(problem: str, *, model: str) -> DataError:
    return DataError(
        f"The score chunks of {model!r} do not match the targets: {problem}. Yield one row for "
        "each user of the targets."
    )
