"""Preprocessing: filter and order raw interactions into the table that all later stages read.

First step of the stage `prepare`: remove duplicates, draw a sample of users if wanted, filter to
the k-core, sort by time, number the positions, and select the items that occur. The paper filters
by a minimum history length (section 5.1); the dataset sizes of the released code show that it
filters items as well, hence the k-core. `histories` returns the items before a target.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.data._frames import collect_interactions
from mllm_msr.data.hashing import hash_ids
from mllm_msr.data.id_encoding import encode_ids, sort_by_user
from mllm_msr.data.text_cleaning import clean_items
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import INTERACTIONS, ITEMS, Frame, conform

Duplicates = Literal["first", "last", "keep"]
UserSample = Literal["before-filter", "after-filter"]


def prepare_interactions(
    raw: Frame,
    *,
    min_user_interactions: int = 5,
    min_item_interactions: int = 5,
    duplicates: Duplicates = "first",
    max_users: int | None = None,
    user_sample: UserSample = "before-filter",
    seed: int = 0,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Filter and order interactions.

    A user's interactions are sorted by timestamp; equal timestamps keep the order of the source.

    Args:
        raw: `interfaces.RawData.interactions`, as a Polars frame, a pandas frame, or another
            Arrow table. Dates in the column `timestamp` are converted to milliseconds.
        min_user_interactions: Users with fewer interactions are removed (k-core), at least 1.
        min_item_interactions: Items with fewer interactions are removed (k-core), at least 1.
        duplicates: Which of a user's repeated interactions with an item remain: the "first", the
            "last", or all of them ("keep").
        max_users: Size of a seeded sample of users, for trials.
        user_sample: "before-filter" samples users with at least `min_user_interactions` before
            the k-core: items keep enough interactions within the sample, but it may lose users.
            "after-filter" samples users of the k-core: items may have fewer interactions.
        seed: Seed of the sample.

    Returns:
        `tables.INTERACTIONS`, sorted by user and position; and counts: raw_interactions,
        raw_users, raw_items, duplicates_dropped, interactions, users, items.

    Raises:
        UsageError: A setting is out of its range, or `raw` is not a frame.
        DataError: A value is missing or has the wrong type, or no interaction is left.
    """
    minima = (min_user_interactions, min_item_interactions)
    _check_settings(*minima, duplicates, max_users, user_sample)
    frame = collect_interactions(raw)
    user, users = encode_ids(frame["user_id"])
    item, items = encode_ids(frame["item_id"])
    timestamp = frame["timestamp"].to_numpy()
    del frame
    counts = {"raw_interactions": len(user), "raw_users": len(users), "raw_items": len(items)}
    rows = _chronological_order(user, timestamp)
    user, item, timestamp = user[rows], item[rows], timestamp[rows]
    if duplicates != "keep":
        rows = _distinct_pairs(user, item, n_items=len(items), keep=duplicates)
        user, item, timestamp = user[rows], item[rows], timestamp[rows]
    counts["duplicates_dropped"] = counts["raw_interactions"] - len(user)
    if max_users is None:
        rows = k_core(user, item, *minima)
    else:
        sample = functools.partial(_sample, users, max_users=max_users, seed=seed)
        rows = _sampled_core(user, item, minima, sample, is_first=user_sample == "before-filter")
    if not len(rows):
        raise _empty_core_error(counts, *minima, max_users)
    table = _to_table(users, user[rows], items, item[rows], timestamp[rows])
    counts["interactions"], counts["users"] = table.height, int((table["position"] == 0).sum())
    counts["items"] = int(np.count_nonzero(np.bincount(item[rows])))
    return table, counts


def k_core(
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    min_user_interactions: int,
    min_item_interactions: int,
) -> npt.NDArray[np.int64]:
    """Return the largest set of rows in which every user and every item has enough rows.

    Args:
        user: Shape [n]. Non-negative user codes.
        item: Shape [n]. Non-negative item codes.
        min_user_interactions: Minimum number of rows per remaining user.
        min_item_interactions: Minimum number of rows per remaining item.

    Returns:
        Row indices, ascending. The set is unique: it does not depend on the order of removal.
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
    """Return the items that occur in the interactions, one row each, sorted by id.

    Titles and texts are cleaned. An item that the source does not describe gets a row with empty
    title and text and no image, and is counted.

    Args:
        interactions: A table with a column `item_id`.
        items: `tables.ITEMS`, as loaded by the dataset.

    Returns:
        `tables.ITEMS`; and counts: items, items_unknown (without a row in `items`),
        items_without_title, items_without_text, items_without_image.

    Raises:
        DataError: A column is missing, or an item has more than one row.
    """
    known = conform(items, ITEMS, name="items")
    repeated = known.filter(pl.col("item_id").is_duplicated())
    if repeated.height:
        raise DataError(
            f"{repeated.height} rows of the table 'items' share an item id with another row. The "
            f"first such id is {repeated['item_id'][0]!r}. Keep one row per item."
        )
    wanted = interactions.select(pl.col("item_id").cast(pl.String).unique().sort())
    n_unknown = wanted.join(known, on="item_id", how="anti").height
    matched = clean_items(wanted.join(known, on="item_id", how="left", maintain_order="left"))
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
    """Return the history of each target: the user's items at smaller positions.

    Args:
        interactions: `tables.INTERACTIONS`.
        targets: Columns `user_id` and `position`. Repeated rows are dropped.
        max_length: Maximum length; the latest items are kept.

    Returns:
        Columns `user_id`, `position` and `history` (list of item ids, oldest first, empty if the
        user is unknown or has no earlier interaction), rows in the order of `targets`.

    Raises:
        DataError: A column is missing or has another type.
    """
    frame, starts = sort_by_user(interactions)
    n_users = len(starts) - 1
    user_codes = frame.select(
        pl.col("user_id").gather(starts[:-1]), pl.lit(np.arange(n_users)).alias("_user")
    )
    wanted = (
        targets.select("user_id", "position")
        .unique(maintain_order=True)
        .join(user_codes, on="user_id", how="left", maintain_order="left")
    )
    user = wanted["_user"].fill_null(n_users).to_numpy()
    # With one sorted key per row, a binary search finds the number of rows before a target.
    keys = np.repeat(np.arange(n_users) << 32, np.diff(starts)) + frame["position"].to_numpy()
    first = starts[user]
    end = np.searchsorted(keys, (user << 32) + wanted["position"].to_numpy())
    if max_length is not None:
        first = np.maximum(first, end - max_length)
    # Build one list per target from the rows first to end; targets without rows get empty lists.
    lengths = end - first
    ends = np.cumsum(lengths)
    rows = np.repeat(first - (ends - lengths), lengths) + np.arange(int(lengths.sum()))
    target = np.repeat(np.arange(len(first)), lengths)
    grouped = (
        pl.DataFrame({"target": target, "item": frame["item_id"].gather(rows)})
        .group_by("target", maintain_order=True)
        .agg("item")
    )
    lists = pl.DataFrame({"target": np.arange(len(first))}).join(
        grouped, on="target", how="left", maintain_order="left"
    )["item"]
    history = lists.fill_null(pl.Series([[]], dtype=pl.List(pl.String))).alias("history")
    return wanted.select("user_id", "position", history)


def _check_settings(
    min_user_interactions: int,
    min_item_interactions: int,
    duplicates: str,
    max_users: int | None,
    user_sample: str,
) -> None:
    """Raise `SettingsError` with every setting that is out of its range."""
    problems = [
        f"data.{name} is {value}. It must be at least 1."
        for name, value in (
            ("min_user_interactions", min_user_interactions),
            ("min_item_interactions", min_item_interactions),
            ("max_users", 1 if max_users is None else max_users),
        )
        if value < 1
    ]
    problems += [
        f"data.{name} is {value!r}. Choose one of {', '.join(get_args(known))}."
        for name, value, known in (
            ("duplicates", duplicates, Duplicates),
            ("user_sample", user_sample, UserSample),
        )
        if value not in get_args(known)
    ]
    if problems:
        raise SettingsError(problems)


def _chronological_order(
    user: npt.NDArray[np.int32], timestamp: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the row order by user and time; rows with equal keys keep their order."""
    if not len(user):
        return np.arange(0)
    earliest = int(timestamp.min())
    span = int(timestamp.max()) - earliest + 1
    if (int(user.max()) + 1) * span >= 2**63:
        return np.lexsort((timestamp, user))
    # An unstable sort of one combined key takes a fifth of the time of a stable sort of two keys.
    # Runs of equal keys are then restored to their original order.
    key = user.astype(np.int64) * span + (timestamp - earliest)
    order = np.argsort(key)
    key = key[order]
    equal = np.flatnonzero(key[1:] == key[:-1])
    tied = np.union1d(equal, equal + 1)
    order[tied] = order[tied[np.lexsort((order[tied], key[tied]))]]
    return order


def _distinct_pairs(
    user: npt.NDArray[np.int32], item: npt.NDArray[np.int32], *, n_items: int, keep: Duplicates
) -> npt.NDArray[np.int64]:
    """Return the first or last row of each (user, item) pair, ascending."""
    pair = user.astype(np.int64) * n_items + item
    order = np.argsort(pair)
    pair = pair[order]
    starts = np.flatnonzero(np.append(True, pair[1:] != pair[:-1])[: len(pair)])
    pick = np.minimum if keep == "first" else np.maximum
    rows: npt.NDArray[np.int64] = np.sort(pick.reduceat(order, starts)) if len(starts) else order
    return rows


def _empty_core_error(
    counts: dict[str, int],
    min_user_interactions: int,
    min_item_interactions: int,
    max_users: int | None,
) -> DataError:
    sample = "" if max_users is None else f" in a sample of at most {max_users} users"
    fix = "Lower data.min_user_interactions or data.min_item_interactions."
    if max_users is not None:
        fix = (
            "Raise data.max_users or set data.user_sample=after-filter, or lower "
            "data.min_user_interactions or data.min_item_interactions."
        )
    n_repeated = counts["duplicates_dropped"]
    repeated = (
        f" {n_repeated} interactions repeat the user and the item of another one and do not count "
        "(data.duplicates)."
    )
    return DataError(
        f"The k-core is empty: of {counts['raw_interactions']} interactions between "
        f"{counts['raw_users']} users and {counts['raw_items']} items, none remain{sample} when "
        f"each user needs {min_user_interactions} interactions and each item "
        f"{min_item_interactions}.{repeated if n_repeated else ''} {fix}"
    )


def _sampled_core(
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    minima: tuple[int, int],
    sample: Callable[[npt.NDArray[np.integer]], npt.NDArray[np.bool_]],
    *,
    is_first: bool,
) -> npt.NDArray[np.int64]:
    """Return the rows of a k-core and of a sample of users, whichever is drawn first."""
    rows: npt.NDArray[np.int64]
    if is_first:
        enough = np.flatnonzero(np.bincount(user, minlength=1) >= minima[0])
        sampled = np.flatnonzero(sample(enough)[user])
        rows = sampled[k_core(user[sampled], item[sampled], *minima)]
    else:
        core = k_core(user, item, *minima)
        rows = core[sample(np.unique(user[core]))[user[core]]]
    return rows


def _sample(
    users: pl.Series, candidates: npt.NDArray[np.integer], *, max_users: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Mark the `max_users` users with the smallest hash among the candidates."""
    hashes = hash_ids(users.gather(candidates), seed, purpose="sample")
    sampled = np.zeros(len(users), dtype=bool)
    sampled[candidates[np.argsort(hashes, kind="stable")[:max_users]]] = True
    return sampled


def _to_table(
    users: pl.Series,
    user: npt.NDArray[np.int32],
    items: pl.Series,
    item: npt.NDArray[np.int32],
    timestamp: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Build `tables.INTERACTIONS` from rows that are sorted by user and time."""
    is_first = np.append(True, user[1:] != user[:-1])
    starts = np.flatnonzero(is_first)
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
