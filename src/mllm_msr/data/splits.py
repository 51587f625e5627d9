"""Splits: which users train, validate and test a model, and which interactions it may see.

`split_users` is the leave-last-out protocol (default): cross-validation over users (paper, section
5.1) where only the last interaction of a validation or test user is hidden, so that methods with
one vector per user can learn from the earlier ones. `released_code_interactions` and
`released_code_split` reproduce the protocol of the paper's released code. That protocol leaks test
data; use it only to compare with the published table.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.data.hashing import Hashes, hash_ids, mix, to_unit_interval
from mllm_msr.data.id_encoding import sort_by_user
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import INTERACTIONS, Schema, as_frame, conform

# One row per fold and user; split: train | validation | test. The target of a user is the last
# interaction, so a split of users is a split of targets.
SPLITS: Final[Schema] = {"fold": pl.Int32(), "user_id": pl.String(), "split": pl.String()}

_NAMES: Final = pl.Series(["train", "validation", "test"])
_TRAIN, _VALIDATION, _TEST = 0, 1, 2

# With fewer users, splitting by hash value gives visibly unequal parts; see `split_users`.
_MIN_USERS_FOR_HASH_SPLIT: Final = 2000


def split_users(
    interactions: pl.DataFrame,
    *,
    folds: int = 5,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> pl.DataFrame:
    """Split users for cross-validation.

    Every user is a test user in exactly one fold. In each fold a fraction of the other users are
    validation users. With 2,000 users or more, the fold of a user depends only on (seed, user_id):
    adding or removing users does not move the others, and folds have equal size up to chance
    (2,000 users in 5 folds: 400 users with a standard deviation of 18). With fewer users, folds
    are made equal by ranking the users' hashes, so adding or removing users may move others.

    Args:
        interactions: `tables.INTERACTIONS`.
        folds: Number of folds, at least 2.
        validation_fraction: Fraction of a fold's remaining users for validation, in [0, 1).
        seed: Seed of the split.

    Returns:
        The columns of `SPLITS`, sorted by fold and user.

    Raises:
        SettingsError: A setting is out of its range.
        DataError: There are fewer users than folds.
    """
    problems = []
    if folds < 2:
        problems.append(f"data.folds is {folds}. It must be at least 2.")
    if not 0 <= validation_fraction < 1:
        problems.append(
            f"data.validation_fraction is {validation_fraction}. It must be at least 0 and below 1."
        )
    if problems:
        raise SettingsError(problems)
    users = _distinct_users(as_frame(interactions, name="interactions"))
    if len(users) < folds:
        raise DataError(
            f"Cannot make {folds} folds from {len(users)} users. "
            "Lower data.folds or provide data with more users."
        )
    hashes = hash_ids(users, seed, purpose="fold")
    fold_of = np.floor(_quantiles(hashes, n_users=len(users)) * folds).astype(np.int64)
    parts = []
    for fold in range(folds):
        split = np.full(len(users), _TRAIN)
        split[fold_of == fold] = _TEST
        others = np.flatnonzero(fold_of != fold)
        quantiles = _quantiles(mix(hashes[others], np.array([fold])), n_users=len(users))
        split[others[quantiles < validation_fraction]] = _VALIDATION
        parts.append(_to_table(users, split, fold=fold))
    return pl.concat(parts)


def visible_interactions(
    interactions: pl.DataFrame, splits: pl.DataFrame, fold: int
) -> tuple[pl.DataFrame, frozenset[str]]:
    """Return the interactions that a model may learn from in one fold.

    Args:
        interactions: `tables.INTERACTIONS`.
        splits: The columns of `SPLITS`.
        fold: One of its folds.

    Returns:
        `tables.INTERACTIONS` without the last interaction of the fold's validation and test
        users, sorted by user and position; and the ids of the training users, whose interactions
        are complete.

    Raises:
        DataError: The splits do not contain the fold, or lack a user.
    """
    frame, starts = sort_by_user(interactions)
    users = frame["user_id"].gather(starts[:-1])
    split = split_codes(users, splits, fold)
    visible = np.ones(frame.height, dtype=bool)
    visible[starts[1:][split != _TRAIN] - 1] = False
    return frame.filter(pl.Series(visible)), frozenset(users.filter(pl.Series(split == _TRAIN)))


def split_codes(users: pl.Series, splits: pl.DataFrame, fold: int) -> npt.NDArray[np.int64]:
    """Return the split of each user in one fold as a code: 0 train, 1 validation, 2 test.

    Args:
        users: Distinct user ids.
        splits: The columns of `SPLITS`.
        fold: One of its folds.

    Returns:
        Shape [n_users].

    Raises:
        DataError: The splits do not contain the fold, or lack a user.
    """
    table = conform(splits, SPLITS, name="splits").filter(pl.col("fold") == fold)
    if table.is_empty():
        known = splits["fold"].unique().sort().to_list()
        raise DataError(f"The splits have no fold {fold}. Available: {', '.join(map(str, known))}.")
    names = pl.DataFrame({"split": _NAMES, "code": np.arange(len(_NAMES))})
    joined = (
        users.rename("user_id")
        .to_frame()
        .join(table, on="user_id", how="left", maintain_order="left")
        .join(names, on="split", how="left", maintain_order="left")
    )
    unknown = joined.filter(pl.col("code").is_null())
    if unknown.height:
        raise DataError(
            f"{unknown.height} of {len(users)} users have no split in fold {fold} (one of "
            f"{', '.join(_NAMES)}); the first one is {unknown['user_id'][0]!r}. "
            "Create the splits from the same interactions."
        )
    return joined["code"].to_numpy().astype(np.int64)


def released_code_interactions(
    interactions: pl.DataFrame, *, n_items: int = 6, order: Literal["time", "frequency"] = "time"
) -> pl.DataFrame:
    """Shorten histories as the paper's released code does.

    For comparison with the published numbers only: each user keeps the `n_items` globally most
    frequent items of their history. The frequencies include the targets of test users (leakage)
    and favor popular items. The last item kept is the target, although it is often not the last
    item that the user interacted with.

    Args:
        interactions: `tables.INTERACTIONS` in the (6, 5)-core. Among items of equal frequency,
            earlier interactions are kept first.
        n_items: Items per user: 6 for MicroLens, 11 for Amazon. Users with fewer items keep all.
        order: Order of the items kept: "time" (MicroLens), or "frequency", most frequent first
            (Amazon; timestamps are then no longer ascending).

    Returns:
        `tables.INTERACTIONS` with new positions.

    Raises:
        DataError: A column is missing or has another type.
    """
    shortened = (
        conform(interactions, INTERACTIONS, name="interactions")
        .with_columns(pl.len().over("item_id").alias("frequency"))
        .sort("user_id", "frequency", "position", descending=[False, True, False])
        .with_columns(pl.int_range(pl.len()).over("user_id").alias("frequency_rank"))
        .filter(pl.col("frequency_rank") < n_items)
    )
    by = "position" if order == "time" else "frequency_rank"
    ordered = shortened.sort("user_id", by).with_columns(
        pl.int_range(pl.len()).over("user_id").alias("position")
    )
    return conform(ordered, INTERACTIONS, name="interactions")


def released_code_split(interactions: pl.DataFrame, *, seed: int = 42) -> pl.DataFrame:
    """Split users 80 / 10 / 10 as the paper's released code does; fold 0 is the only fold.

    Proportions and seed are those of the released code. The random generator differs, and so do
    the users in each part.

    Args:
        interactions: `tables.INTERACTIONS`, as returned by `released_code_interactions`.
        seed: Seed of the split.

    Returns:
        The columns of `SPLITS`, sorted by user.

    Raises:
        DataError: There are fewer than ten users.
    """
    users = _distinct_users(interactions)
    if len(users) < 10:
        raise DataError(
            f"{len(users)} users are too few for a split of 80 / 10 / 10, which needs at least 10. "
            "Provide data with more users or set data.protocol=leave-last-out."
        )
    # The purpose is the protocol's former name: renaming it would change every published split.
    quantiles = _quantiles(hash_ids(users, seed, purpose="paper-code"), n_users=len(users))
    split = np.select([quantiles < 0.8, quantiles < 0.9], [_TRAIN, _VALIDATION], default=_TEST)
    return _to_table(users, split, fold=0)


def _distinct_users(interactions: pl.DataFrame) -> pl.Series:
    """Return the distinct user ids, sorted."""
    frame, starts = sort_by_user(interactions)
    return frame["user_id"].gather(starts[:-1])


def _quantiles(hashes: Hashes, *, n_users: int) -> npt.NDArray[np.float64]:
    """Map each hash to (0, 1): its value, or its rank if there are few users in total."""
    if n_users >= _MIN_USERS_FOR_HASH_SPLIT:
        return to_unit_interval(hashes)
    quantiles = np.empty(len(hashes))
    order = np.argsort(hashes, kind="stable")
    quantiles[order] = (np.arange(len(hashes)) + 0.5) / len(hashes)
    return quantiles


def _to_table(users: pl.Series, split: npt.NDArray[np.integer], *, fold: int) -> pl.DataFrame:
    frame = pl.DataFrame({"user_id": users, "split": _NAMES.gather(split)})
    return conform(frame.with_columns(fold=pl.lit(fold)), SPLITS, name="splits")
