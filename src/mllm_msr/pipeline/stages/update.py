"""Stage "update": add new interactions to a finished run.

A file is read like the files of the run's dataset, and the same rules apply as in `prepare`. The
next export of the source can therefore be used as it is. Only blocks with new interactions are
inferred again, with one prompt each; the model is not retrained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mllm_msr import tables
from mllm_msr.data.data_report import counted
from mllm_msr.data.preprocessing import Duplicates
from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.datasets._interactions import InteractionFormat, read_interactions
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset

_KEY = ["user_id", "item_id", "timestamp"]
_PAIR = ["user_id", "item_id"]


@dataclass(frozen=True, slots=True)
class Update:
    """New interactions and what they change.

    Attributes:
        histories: `tables.INTERACTIONS` with the full histories of the users with new interactions.
        n_unchanged: Columns `user_id` and `n_unchanged`: number of interactions at the start of
            these histories that are as before.
        unknown_items: Ids of items that the run does not contain, sorted.
        counts: interactions, users and new_users (with new interactions); known (interactions that
            the run already has); unknown_items (interactions with such items); outside_sample
            (interactions of users that are not in the run's sample of users).
    """

    histories: pl.DataFrame
    n_unchanged: pl.DataFrame
    unknown_items: tuple[str, ...]
    counts: dict[str, int]


def read_new_interactions(dataset: Dataset, file: Path) -> pl.DataFrame:
    """Read a file in the form of the dataset's interactions.

    Args:
        dataset: The run's dataset.
        file: See `Dataset.read_interactions`.

    Returns:
        `user_id`, `item_id` and `timestamp` (null if the rows only have an order), sorted by time.

    Raises:
        DataError: The file cannot be read, or has invalid values.
    """
    rows = dataset.read_interactions(file)
    if rows is None:
        rows = read_interactions(
            file, InteractionFormat(), options=ReadOptions(has_settings=False)
        ).frame
    return rows.collect().sort("timestamp", maintain_order=True)


def plan_update(
    known: pl.DataFrame,
    new: pl.DataFrame,
    items: pl.DataFrame,
    *,
    duplicates: Duplicates,
    is_sample: bool = False,
) -> Update:
    """Append new interactions to the histories of their users.

    Interactions that `known` already contains are ignored, and so are interactions with items that
    the run does not contain.

    Args:
        known: `tables.INTERACTIONS` with all earlier updates applied.
        new: Result of `read_new_interactions`.
        items: `tables.ITEMS`.
        duplicates: Which of a user's repeated interactions with an item remain, as in `prepare`.
        is_sample: Whether the run has a sample of the users (`data.max_users`): then others are
            not added.

    Raises:
        DataError: All items are unknown, or an interaction is older than its user's history.
    """
    rows = new.join(items, on="item_id", how="semi", maintain_order="left")
    unknown = new.join(items, on="item_id", how="anti")
    unknown_items = tuple(unknown["item_id"].unique().sort())
    if rows.is_empty() and unknown_items:
        raise _nothing_matches(unknown_items, items)
    in_sample = rows
    if is_sample:
        in_sample = rows.join(known, on="user_id", how="semi", maintain_order="left")
    added = _select_new(known, in_sample, duplicates)
    kept = known
    if duplicates == "last":
        # A repeated interaction replaces the earlier one, as it would in `prepare`.
        kept = known.join(added, on=_PAIR, how="anti", maintain_order="left")
    latest = known.group_by("user_id").agg(latest=pl.col("timestamp").max())
    _require_newer(added, latest)
    users = added.select("user_id").unique()
    histories = (
        pl.concat([kept.join(users, on="user_id", how="semi"), added], how="diagonal")
        .sort("user_id", "position", maintain_order=True, nulls_last=True)
        .with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id"))
        .select(*tables.INTERACTIONS)
    )
    return Update(
        histories,
        _unchanged(known, kept, users),
        unknown_items,
        {
            "interactions": added.height,
            "users": users.height,
            "new_users": users.join(latest, on="user_id", how="anti").height,
            "known": in_sample.height - added.height,
            "unknown_items": unknown.height,
            "outside_sample": rows.height - in_sample.height,
        },
    )


def reusable_preferences(preferences: pl.DataFrame, n_unchanged: pl.DataFrame) -> pl.DataFrame:
    """Return the preferences that only depend on unchanged interactions.

    Args:
        preferences: `tables.PREFERENCES` with all earlier updates applied.
        n_unchanged: See `Update.n_unchanged`.
    """
    joined = preferences.join(n_unchanged, on="user_id", how="left", maintain_order="left")
    is_valid = pl.col("n_unchanged").is_null() | (pl.col("n_items") <= pl.col("n_unchanged"))
    return joined.filter(is_valid).select(preferences.columns)


def describe(counts: dict[str, int]) -> str:
    """Return the counts of an update as sentences."""
    sentences = []
    if counts["interactions"]:
        new = f" ({counts['new_users']} of them new)" if counts["new_users"] else ""
        sentences.append(
            f"Added {counted(counts['interactions'], 'interaction')} of "
            f"{counted(counts['users'], 'user')}{new} and updated their preferences."
        )
    else:
        sentences.append("The file has no new interactions; nothing was changed.")
    if counts["known"]:
        sentences.append(
            f"Ignored {counted(counts['known'], 'interaction')} that the run already contains."
        )
    if counts["unknown_items"]:
        sentences.append(
            f"Ignored {counted(counts['unknown_items'], 'interaction')} with items that the run "
            "does not contain. A new run can include them."
        )
    if counts["outside_sample"]:
        sentences.append(
            f"Ignored {counted(counts['outside_sample'], 'interaction')} of users that are not in "
            "the run's sample of users (data.max_users)."
        )
    return "\n".join(sentences)


def _examples(ids: tuple[str, ...] | pl.Series) -> str:
    return " and ".join(repr(value) for value in ids[:2])


def _nothing_matches(unknown_items: tuple[str, ...], items: pl.DataFrame) -> DataError:
    return DataError(
        f"No item of the file is in this run. Ids of the file are {_examples(unknown_items)}, "
        f"ids of the run {_examples(items['item_id'])}. Check the ids and their column, or start "
        "a new run that includes these items."
    )


def _select_new(known: pl.DataFrame, rows: pl.DataFrame, duplicates: Duplicates) -> pl.DataFrame:
    """Return the rows that `known` does not contain, after the rule for duplicates.

    Rows without times follow the known interactions in their order.
    """
    if rows["timestamp"].null_count():
        # Without times, a repeated pair is only distinct from a known row by its number.
        after = int(known["timestamp"].max() or 0) + 1  # type: ignore[arg-type]
        if duplicates != "keep":
            rows = rows.join(known, on=_PAIR, how="anti", maintain_order="left")
        rows = rows.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64) + after)
    if duplicates == "keep":
        # Equal rows count as often as they occur.
        nth = pl.int_range(pl.len()).over(_KEY).alias("nth")
        return (
            rows.with_columns(nth)
            .join(known.select(*_KEY, nth), on=[*_KEY, "nth"], how="anti", maintain_order="left")
            .drop("nth")
        )
    rows = rows.unique(_PAIR, keep=duplicates, maintain_order=True)
    if duplicates == "first":
        return rows.join(known, on=_PAIR, how="anti", maintain_order="left")
    times = known.select(*_PAIR, known_time="timestamp")
    is_newer = pl.col("known_time").is_null() | (pl.col("timestamp") > pl.col("known_time"))
    joined = rows.join(times, on=_PAIR, how="left", maintain_order="left")
    return joined.filter(is_newer).drop("known_time")


def _require_newer(added: pl.DataFrame, latest: pl.DataFrame) -> None:
    """Raise `DataError` if a row is older than the history of its user."""
    late = added.join(latest, on="user_id").filter(pl.col("timestamp") < pl.col("latest"))
    if late.height:
        user, item = late.row(0)[:2]
        raise DataError(
            f"New interactions must not be older than the history of their user, but {late.height} "
            f"of {added.height} are, for example of user {user!r} with item {item!r}. Leave them "
            "out, or start a new run that includes them."
        )


def _unchanged(known: pl.DataFrame, kept: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Return how many interactions at the start of the users' histories were kept."""
    removed = known.join(kept, on=["user_id", "position"], how="anti")
    first_removed = removed.group_by("user_id").agg(first=pl.col("position").min())
    lengths = known.group_by("user_id").len("length")
    joined = users.join(first_removed, on="user_id", how="left").join(
        lengths, on="user_id", how="left"
    )
    return joined.select(
        "user_id", n_unchanged=pl.coalesce("first", "length").fill_null(0).cast(pl.Int32)
    )
