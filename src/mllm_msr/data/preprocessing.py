"""Raw interactions -> the filtered, ordered table that every later stage reads.

The first step of `prepare`: duplicates, k-core to its fixed point, chronological order,
positions; and the items that belong to what is kept. Filtering is by the paper's minimum history
length (section 5.1), made a k-core because the released code's numbers show one.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.data._hashing import hash_ids
from mllm_msr.data._id_encoding import Codes, encode, sorted_blocks
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import INTERACTIONS, ITEMS, conform

Duplicates = Literal["first", "last", "keep"]

_COLUMNS: Final = ("user_id", "item_id", "timestamp")


def prepare_interactions(
    raw: pl.LazyFrame,
    *,
    min_user_interactions: int = 5,
    min_item_interactions: int = 5,
    duplicates: Duplicates = "first",
    max_users: int | None = None,
    seed: int = 0,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Filter and order interactions.

    A user's interactions are ordered by timestamp; equal timestamps keep the order in which the
    source gives them. Positions count 0, 1, ... within a user.

    Args:
        raw: Columns `user_id`, `item_id` (strings) and `timestamp` (integer, milliseconds or
            rank), as `interfaces.RawData.interactions`.
        min_user_interactions: Users with fewer interactions go, at least 1.
        min_item_interactions: Items with fewer interactions go, at least 1. Both conditions
            hold together in the result (k-core).
        duplicates: What stays where a user met an item more than once: the "first" interaction,
            the "last", or all of them ("keep").
        max_users: Keep a seeded sample of at most so many users, for trials. It is taken after
            the k-core, so items of the sample may have fewer interactions than asked for.
        seed: Seed of that sample.

    Returns:
        `tables.INTERACTIONS`, sorted by user and position; and counts: raw_interactions,
        raw_users, raw_items, duplicates_dropped, interactions, users, items.

    Raises:
        SettingsError: A setting is out of its range.
        DataError: A value is missing or not of its type, or nothing is left.
    """
    _check_settings(min_user_interactions, min_item_interactions, duplicates, max_users)
    user, users, item, items, timestamp = _collect(raw)
    counts = {"raw_interactions": len(user), "raw_users": len(users), "raw_items": len(items)}
    order = _chronological(user, timestamp)
    user, item, timestamp = user[order], item[order], timestamp[order]
    del order
    if duplicates != "keep":
        kept = _first_or_last(user, item, n_items=len(items), which=duplicates)
        user, item, timestamp = user[kept], item[kept], timestamp[kept]
    counts["duplicates_dropped"] = counts["raw_interactions"] - len(user)
    kept = k_core(
        user, item, min_user_interactions=min_user_interactions,
        min_item_interactions=min_item_interactions,
    )  # fmt: skip
    if not len(kept):
        raise _nothing_left(counts, min_user_interactions, min_item_interactions)
    if max_users is not None:
        kept = kept[_sampled(user[kept], users, max_users=max_users, seed=seed)]
    frame = _to_table(users, user[kept], items, item[kept], timestamp[kept])
    counts["interactions"] = frame.height
    counts["users"] = int((frame["position"] == 0).sum())
    counts["items"] = int(np.count_nonzero(np.bincount(item[kept])))
    return frame, counts


def k_core(
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    *,
    min_user_interactions: int,
    min_item_interactions: int,
) -> npt.NDArray[np.int64]:
    """The largest set of interactions in which every user and every item has enough.

    Args:
        user: Shape [n]; non-negative user codes.
        item: Shape [n]; non-negative item codes.
        min_user_interactions: Least number of rows per user that is left.
        min_item_interactions: Least number of rows per item that is left.

    Returns:
        Indices of the rows that stay, ascending. The set is unique: it does not depend on the
        order in which rows are taken away.
    """
    rows = np.arange(len(user))
    while len(rows):
        users, items = user[rows], item[rows]
        enough = (np.bincount(users) >= min_user_interactions)[users]
        enough &= (np.bincount(items) >= min_item_interactions)[items]
        if enough.all():
            break
        rows = rows[enough]
    return rows


def match_items(
    interactions: pl.DataFrame, items: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The items that occur in the interactions, one row each, sorted by id.

    An item that the source does not describe stays: it gets a row with empty title and text and
    no image, and is counted.

    Args:
        interactions: A table with a column `item_id`.
        items: `tables.ITEMS`, as the data set yields it.

    Returns:
        `tables.ITEMS`; and counts: items, items_unknown (not in the source's table),
        items_without_title, items_without_text, items_without_image.

    Raises:
        DataError: A column is missing, or an item has two rows.
    """
    known = conform(items, ITEMS, name="items")
    doubled = known.filter(pl.col("item_id").is_duplicated())
    if doubled.height:
        raise DataError(
            needed="one row per item in the table 'items'",
            received=f"{doubled.height} rows that share an id, the first {doubled['item_id'][0]!r}",
            remedy="remove the doubled rows",
        )
    wanted = interactions.select(pl.col("item_id").cast(pl.String).unique().sort())
    n_unknown = wanted.join(known, on="item_id", how="anti").height
    matched = wanted.join(known, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("title", "text").fill_null("")
    )
    counts = {
        "items": matched.height,
        "items_unknown": n_unknown,
        "items_without_title": int((matched["title"] == "").sum()),
        "items_without_text": int((matched["text"] == "").sum()),
        "items_without_image": matched["image"].null_count(),
    }
    return matched, counts


def histories(
    interactions: pl.DataFrame, targets: pl.DataFrame, *, max_length: int | None = None
) -> pl.DataFrame:
    """What may be seen before each target: the user's items at smaller positions.

    Args:
        interactions: `tables.INTERACTIONS`.
        targets: Columns `user_id` and `position`, distinct rows (others are dropped).
        max_length: Keep only so many items, the latest.

    Returns:
        Columns `user_id`, `position` and `history` (list of item ids, oldest first, empty where
        the user is unknown or new), rows in the order of `targets`.

    Raises:
        DataError: A column is missing or of another type.
    """
    frame, starts = sorted_blocks(interactions)
    n_users = len(starts) - 1
    per_user = frame.select(
        pl.col("user_id").gather(starts[:-1]), pl.lit(np.arange(n_users)).alias("_user")
    )
    wanted = (
        targets.select("user_id", "position")
        .unique(maintain_order=True)
        .join(per_user, on="user_id", how="left", maintain_order="left")
    )
    user = wanted["_user"].fill_null(n_users).to_numpy()
    # One sorted key per row: the number of rows before a target is a binary search away.
    keys = np.repeat(np.arange(n_users) << 32, np.diff(starts)) + frame["position"].to_numpy()
    first = starts[user]
    end = np.searchsorted(keys, (user << 32) + wanted["position"].to_numpy())
    if max_length is not None:
        first = np.maximum(first, end - max_length)
    lists = _lists(frame["item_id"], first, end)
    return wanted.select("user_id", "position", lists.alias("history"))


def _lists(values: pl.Series, first: Codes, end: Codes) -> pl.Series:
    """One list of consecutive values per pair of bounds."""
    lengths = end - first
    ends = np.cumsum(lengths)
    rows = np.repeat(first - (ends - lengths), lengths) + np.arange(int(lengths.sum()))
    place = np.repeat(np.arange(len(first)), lengths)
    grouped = (
        pl.DataFrame({"place": place, "value": values.gather(rows)})
        .group_by("place", maintain_order=True)
        .agg("value")
    )
    filled = pl.DataFrame({"place": np.arange(len(first))}).join(
        grouped, on="place", how="left", maintain_order="left"
    )
    return filled["value"].fill_null(pl.Series([[]], dtype=pl.List(values.dtype)))


def _check_settings(
    min_user_interactions: int,
    min_item_interactions: int,
    duplicates: str,
    max_users: int | None,
) -> None:
    """Raise `SettingsError` with all that is wrong."""
    problems = [
        f"{name} must be at least 1, it is {value}"
        for name, value in (
            ("min_user_interactions", min_user_interactions),
            ("min_item_interactions", min_item_interactions),
            ("max_users", 1 if max_users is None else max_users),
        )
        if value < 1
    ]
    if duplicates not in get_args(Duplicates):
        known = ", ".join(get_args(Duplicates))
        problems.append(f"duplicates must be one of {known}, it is {duplicates!r}")
    if problems:
        raise SettingsError(problems)


def _nothing_left(
    counts: dict[str, int], min_user_interactions: int, min_item_interactions: int
) -> DataError:
    """The error for a k-core without any row."""
    return DataError(
        needed=f"users with at least {min_user_interactions} interactions and items with at "
        f"least {min_item_interactions}, both at once",
        received=f"none among {counts['raw_interactions']} interactions of "
        f"{counts['raw_users']} users and {counts['raw_items']} items",
        remedy="lower min_user_interactions or min_item_interactions",
    )


def _collect(
    raw: pl.LazyFrame,
) -> tuple[
    npt.NDArray[np.int32], pl.Series, npt.NDArray[np.int32], pl.Series, npt.NDArray[np.int64]
]:
    """Read the raw interactions as codes: user, users, item, items, timestamp."""
    try:
        frame = raw.select(
            pl.col("user_id", "item_id").cast(pl.String).cast(pl.Categorical),
            pl.col("timestamp").cast(pl.Int64),
        ).collect(engine="streaming")
    except pl.exceptions.PolarsError as cause:
        raise DataError(
            needed="interactions with user_id, item_id and an integer timestamp",
            received=str(cause).splitlines()[0],
            remedy="mend the source's rows or columns",
        ) from cause
    for column in _COLUMNS:
        n_missing = frame[column].null_count()
        if n_missing:
            row = int(frame[column].is_null().arg_max() or 0)
            raise DataError(
                needed=f"a {column} in every interaction",
                received=f"{n_missing} without one, the first in row {row + 1} of {frame.height}",
                remedy="remove or complete these rows",
            )
    user, users = encode(frame["user_id"])
    item, items = encode(frame["item_id"])
    return user, users, item, items, frame["timestamp"].to_numpy()


def _chronological(
    user: npt.NDArray[np.int32], timestamp: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rows by user and time; equal ones in the order in which they come."""
    if not len(user):
        return np.arange(0)
    earliest = int(timestamp.min())
    span = int(timestamp.max()) - earliest + 1
    if (int(user.max()) + 1) * span >= 2**63:
        return np.lexsort((timestamp, user))
    # One unstable sort of one key takes a fifth of the time of a stable sort of two.
    key = user.astype(np.int64) * span + (timestamp - earliest)
    order = np.argsort(key)
    key = key[order]
    equal = np.flatnonzero(key[1:] == key[:-1])
    tied = np.union1d(equal, equal + 1)
    order[tied] = order[tied[np.lexsort((order[tied], key[tied]))]]
    return order


def _first_or_last(
    user: npt.NDArray[np.int32], item: npt.NDArray[np.int32], *, n_items: int, which: Duplicates
) -> npt.NDArray[np.int64]:
    """Rows that stay, ascending, where each (user, item) pair may stay once."""
    pair = user.astype(np.int64) * n_items + item
    order = np.argsort(pair)
    pair = pair[order]
    runs = np.flatnonzero(np.append(True, pair[1:] != pair[:-1])[: len(pair)])
    pick = np.minimum if which == "first" else np.maximum
    stays: npt.NDArray[np.int64] = np.sort(pick.reduceat(order, runs)) if len(runs) else order
    return stays


def _sampled(
    user: npt.NDArray[np.int32], users: pl.Series, *, max_users: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Mask of the rows whose user is among the `max_users` with the smallest hash."""
    present = np.unique(user)
    hashes = hash_ids(users.gather(present), seed, purpose="sample")
    chosen = np.zeros(len(users), dtype=bool)
    chosen[present[np.argsort(hashes, kind="stable")[:max_users]]] = True
    return chosen[user]


def _to_table(
    users: pl.Series,
    user: npt.NDArray[np.int32],
    items: pl.Series,
    item: npt.NDArray[np.int32],
    timestamp: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """`tables.INTERACTIONS` from rows that are sorted by user and time."""
    begins = np.append(True, user[1:] != user[:-1])
    starts = np.flatnonzero(begins)
    position = np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))
    frame = pl.DataFrame(
        {
            "user_id": users.gather(user),
            "item_id": items.gather(item),
            "timestamp": timestamp,
            "position": position.astype(np.int32),
        }
    )
    return conform(frame, INTERACTIONS, name="interactions")
