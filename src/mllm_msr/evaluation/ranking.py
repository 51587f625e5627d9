"""Ranking the whole catalogue: where each true item stands, and what stands at the top.

Stands between scoring and the metrics (paper, section "Experiments", which ranks 21 candidates;
this is the stricter question). Scores arrive in chunks of users, are reduced at once to
`tables.RANKS` and `tables.TOP`, and are forgotten, so that memory is bounded by one chunk however
many users there are.

Items that the user had before the target are no candidates. Equal scores count by their expected
value in the ranks; in the lists, which need one order, they stand in the order of item ids.
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
from mllm_msr.evaluation.metrics import KEYS, check_scores, rank_counts

Scores = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

FULL: Final = "full"
DEPTH: Final = 20

# Bound on the working copy of a chunk; a few arrays of its shape exist beside it.
_BLOCK_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is kept of one model's scores over the whole catalogue.

    Attributes:
        ranks: `tables.RANKS` with negatives "full".
        top: `tables.TOP`.
    """

    ranks: pl.DataFrame
    top: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _Catalogue:
    """Items by their column, and the place of each column in the order of ids."""

    item_ids: pl.Series
    column_of: pl.DataFrame
    order: Indices


def rank_catalogue(
    chunks: Iterable[tuple[pl.DataFrame, Scores]],
    targets: pl.DataFrame,
    *,
    catalogue: Sequence[str],
    interactions: pl.DataFrame,
    depth: int = DEPTH,
    model: str = "scores",
) -> Ranking:
    """Rank the catalogue for every user of a dense scorer.

    Args:
        chunks: What `CatalogScorer.score_catalog` yields: users (`user_id`) and their scores
            of shape [n_users, n_items], float32, finite; every target's user exactly once.
        targets: Rows of `tables.CANDIDATES` with label 1 of one fold, one per user.
        catalogue: Item ids in the order of the columns.
        interactions: `tables.INTERACTIONS`; a user's items at positions before the target are no
            candidates, unless the target is one of them.
        depth: Length of the lists that are kept.
        model: What the model is called in messages.

    Raises:
        DataError: A target outside the catalogue, users that are not those of the targets, or
            scores of another shape or not finite.
    """
    items = _index(catalogue)
    wanted = targets.select("fold", "user_id", "position", "item_id")
    wanted = wanted.join(items.column_of, on="item_id", how="left", maintain_order="left")
    _refuse_unknown(wanted, model=model, n_items=len(catalogue))
    seen = _seen(wanted, interactions, items)
    ranks, top, n_users = [tables.empty(tables.RANKS)], [tables.empty(tables.TOP)], 0
    for users, scores in _blocks(chunks, n_items=len(catalogue), model=model):
        rows = users.select("user_id").join(wanted, on="user_id", maintain_order="left")
        if rows.height != users.height:
            _refuse_users(f"{users.height - rows.height} others in a chunk", model=model)
        masked = rows.with_row_index("row").select("row", "user_id").join(seen, on="user_id")
        scores[masked["row"], masked["column"]] = -np.inf
        ranks.append(_ranks(rows, scores, n_seen=_counts(masked["row"], rows.height)))
        top.append(_top(rows, scores, items, depth=depth))
        n_users += rows.height
    ranking = Ranking(pl.concat(ranks), pl.concat(top))
    if ranking.ranks["user_id"].n_unique() != wanted.height or n_users != wanted.height:
        _refuse_users(f"{n_users} rows for {wanted.height} users", model=model)
    return Ranking(ranking.ranks.sort(KEYS), ranking.top.sort("fold", "user_id", "rank"))


def rank_scores(scores: pl.DataFrame, *, depth: int = DEPTH, model: str = "scores") -> Ranking:
    """The same from a table of scores, for models that score one candidate at a time.

    Args:
        scores: Columns of `tables.SCORES`: every candidate of some users, one positive each.
        depth: Length of the lists that are kept.
        model: What the model is called in messages.

    Raises:
        DataError: Unusable scores, or a group whose number of positives is not one.
    """
    check_scores(scores, model=model)
    ordered = scores.sort(
        "fold", "user_id", "score", "item_id", descending=[False, False, True, False]
    )
    rank = pl.int_range(1, pl.len() + 1).over("fold", "user_id")
    top = ordered.with_columns(rank=rank).filter(pl.col("rank") <= depth)
    return Ranking(rank_counts(scores, model=model), tables.conform(top, tables.TOP, name="top"))


def _index(catalogue: Sequence[str]) -> _Catalogue:
    ids = pl.Series("item_id", catalogue, dtype=pl.String)
    columns = pl.DataFrame({"item_id": ids}).with_row_index("column")
    order = np.empty(len(ids), dtype=np.int64)
    order[columns.sort("item_id")["column"].to_numpy()] = np.arange(len(ids))
    return _Catalogue(ids, columns.with_columns(pl.col("column").cast(pl.Int64)), order)


def _seen(wanted: pl.DataFrame, interactions: pl.DataFrame, items: _Catalogue) -> pl.DataFrame:
    """Distinct (user_id, column) that are no candidates; items outside the catalogue are none."""
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
    """Checked scores in a buffer that may be written to, a few rows at a time."""
    n_rows = max(1, _BLOCK_BYTES // (4 * max(1, n_items)))
    buffer = np.empty((n_rows, n_items), dtype=np.float32)
    for users, scores in chunks:
        if scores.shape != (users.height, n_items):
            raise DataError(
                needed=f"scores of {model!r} of the shape {(users.height, n_items)}",
                received=f"the shape {scores.shape}",
                remedy="yield one row per user and one column per item of the catalogue",
            )
        for start in range(0, users.height, n_rows):
            part = users.slice(start, n_rows)
            block = buffer[: part.height]
            np.copyto(block, scores[start : start + n_rows])
            # A NaN survives both, and an infinity one of them.
            if not np.isfinite(block.max(initial=0.0) - block.min(initial=0.0)):
                bad = int((~np.isfinite(block)).sum())
                raise DataError(
                    needed=f"finite scores of the model {model!r}",
                    received=f"{bad} that are NaN or infinite among {part.height} users",
                    remedy="mend the model or give these items a score that it stands for",
                )
            yield part, block


def _ranks(rows: pl.DataFrame, scores: Scores, *, n_seen: Indices) -> pl.DataFrame:
    """`tables.RANKS` of one block whose seen items stand at minus infinity."""
    reached = scores[np.arange(rows.height), rows["column"].to_numpy()][:, None]  # [n_users, 1]
    n_better = np.count_nonzero(scores > reached, axis=1)
    n_tied = np.count_nonzero(scores == reached, axis=1) - 1
    counts = rows.with_columns(
        negatives=pl.lit(FULL),
        n_better=pl.Series(n_better),
        n_tied=pl.Series(n_tied),
        n_negatives=pl.Series(scores.shape[1] - 1 - n_seen),
    )
    return tables.conform(counts, tables.RANKS, name="ranks")


def _top(rows: pl.DataFrame, scores: Scores, items: _Catalogue, *, depth: int) -> pl.DataFrame:
    """`tables.TOP` of one block; equal scores in the order of item ids, whatever the columns'."""
    n_items = scores.shape[1]
    k = min(depth, n_items)
    threshold = np.partition(scores, n_items - k, axis=1)[:, n_items - k, None]  # [n_users, 1]
    at, columns = np.nonzero((scores >= threshold) & (scores > -np.inf))
    values = scores[at, columns]
    sorting = np.lexsort((items.order[columns], -values, at))
    at, columns, values = at[sorting], columns[sorting], values[sorting]
    first = np.concatenate([[0], np.cumsum(_counts(at, rows.height))])[:-1]
    rank = np.arange(len(at)) - first[at] + 1
    kept = rank <= k
    top = rows.select("fold", "user_id")[at[kept]].with_columns(
        rank=pl.Series(rank[kept]),
        item_id=items.item_ids.gather(columns[kept]),
        score=pl.Series(values[kept]),
    )
    return tables.conform(top, tables.TOP, name="top")


def _counts(rows: npt.ArrayLike, n_rows: int) -> Indices:
    return np.bincount(np.asarray(rows, dtype=np.int64), minlength=n_rows)


def _refuse_unknown(wanted: pl.DataFrame, *, model: str, n_items: int) -> None:
    unknown = wanted.filter(pl.col("column").is_null())
    if unknown.height:
        raise DataError(
            needed=f"every target in the catalogue of {model!r} ({n_items} items)",
            received=f"{unknown.height} outside, such as {unknown['item_id'][0]!r}",
            remedy="score the whole catalogue, items that nobody has chosen yet as well",
        )


def _refuse_users(received: str, *, model: str) -> None:
    raise DataError(
        needed=f"each target's user once in the chunks of {model!r}",
        received=received,
        remedy="yield one row for each user that was asked for",
    )
