"""Who is trained on, validated on and tested on, and what each may see.

`split_users` is the sound protocol: cross-validation over users (paper, section 5.1), and of a
test or validation user only the last interaction is hidden, so that methods which need a vector
per user can learn from the rest. `paper_code_*` reproduce the released code's protocol, which
is unsound, for comparison with the published table only.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.data._hashing import Hashes, fraction, hash_ids, mix
from mllm_msr.data._id_encoding import sorted_blocks
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import INTERACTIONS, Schema, conform

# One row per fold and user; split: train | validation | test. The target of a user is the last
# interaction, so a split of users is a split of targets.
SPLITS: Final[Schema] = {"fold": pl.Int32(), "user_id": pl.String(), "split": pl.String()}

_NAMES: Final = pl.Series(["train", "validation", "test"])
_TRAIN, _VALIDATION, _TEST = 0, 1, 2

# Below this, chance makes hashed parts visibly unequal; see `split_users`.
_DEALT_BELOW: Final = 2000


def split_users(
    interactions: pl.DataFrame,
    *,
    folds: int = 5,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> pl.DataFrame:
    """Cross-validation over users.

    Every user is a test user in exactly one fold; in each fold a share of the others validates.
    The fold of a user depends on (seed, user_id) only, so users who come or go move nobody
    else; parts are then equal up to chance (2,000 users in 5 folds: 400 with a standard
    deviation of 18). With fewer than 2,000 users the parts are made equal by dealing the users
    out in the order of their hashes, and users who come or go may move others.

    Args:
        interactions: `tables.INTERACTIONS`.
        folds: Number of folds, at least 2.
        validation_fraction: Share of a fold's remaining users that validates, in [0, 1).
        seed: Seed of the split.

    Returns:
        The columns of `SPLITS`, sorted by fold and user.

    Raises:
        SettingsError: A setting is out of its range.
        DataError: There are fewer users than folds.
    """
    problems = []
    if folds < 2:
        problems.append(f"folds must be at least 2, it is {folds}")
    if not 0 <= validation_fraction < 1:
        problems.append(f"validation_fraction must be in [0, 1), it is {validation_fraction}")
    if problems:
        raise SettingsError(problems)
    users = _users(interactions)
    if len(users) < folds:
        raise DataError(
            needed=f"at least one user per fold, {folds} in all",
            received=f"{len(users)} users",
            remedy="lower data.folds or bring more data",
        )
    hashes = hash_ids(users, seed, purpose="fold")
    fold_of = np.floor(_places(hashes, n_users=len(users)) * folds).astype(np.int64)
    parts = []
    for fold in range(folds):
        split = np.full(len(users), _TRAIN)
        split[fold_of == fold] = _TEST
        others = np.flatnonzero(fold_of != fold)
        places = _places(mix(hashes[others], np.array([fold])), n_users=len(users))
        split[others[places < validation_fraction]] = _VALIDATION
        parts.append(_to_table(users, split, fold=fold))
    return pl.concat(parts)


def visible_interactions(
    interactions: pl.DataFrame, splits: pl.DataFrame, fold: int
) -> tuple[pl.DataFrame, frozenset[str]]:
    """What a method may learn from in one fold.

    Args:
        interactions: `tables.INTERACTIONS`.
        splits: The columns of `SPLITS`.
        fold: One of its folds.

    Returns:
        `tables.INTERACTIONS` without the last interaction of the fold's validation and test
        users, sorted by user and position; and the ids of the training users, of whom
        everything is there.

    Raises:
        DataError: The splits have no such fold, or not every user.
    """
    frame, starts = sorted_blocks(interactions)
    users = frame["user_id"].gather(starts[:-1])
    split = split_codes(users, splits, fold)
    seen = np.ones(frame.height, dtype=bool)
    seen[starts[1:][split != _TRAIN] - 1] = False
    return frame.filter(pl.Series(seen)), frozenset(users.filter(pl.Series(split == _TRAIN)))


def split_codes(users: pl.Series, splits: pl.DataFrame, fold: int) -> npt.NDArray[np.int64]:
    """The split of each user in one fold: 0 train, 1 validation, 2 test.

    Args:
        users: Distinct user ids.
        splits: The columns of `SPLITS`.
        fold: One of its folds.

    Raises:
        DataError: The splits have no such fold, or not every user.
    """
    table = conform(splits, SPLITS, name="splits").filter(pl.col("fold") == fold)
    if table.is_empty():
        known = splits["fold"].unique().sort().to_list()
        raise DataError(
            needed=f"one of the folds {', '.join(map(str, known))}",
            received=f"fold {fold}",
            remedy="choose one of these",
        )
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
            needed=f"train, validation or test for every user in fold {fold} of the splits",
            received=f"{unknown.height} users without it, the first {unknown['user_id'][0]!r}",
            remedy="split the users of these very interactions",
        )
    return joined["code"].to_numpy().astype(np.int64)


def paper_code_interactions(
    interactions: pl.DataFrame, *, n_items: int = 6, order: Literal["time", "frequency"] = "time"
) -> pl.DataFrame:
    """Rewrite histories as the released code does. Unsound: for comparison only.

    Of each user the `n_items` globally most frequent items stay. The choice looks at all users,
    test users' targets included, and favours popular items; the last one left is the target
    although it is often not what the user met last.

    Args:
        interactions: `tables.INTERACTIONS` in the (6, 5)-core; equal frequencies keep the
            earlier interaction.
        n_items: Items per user: 6 for MicroLens, 11 for Amazon. Users with fewer keep all.
        order: Order of what stays: "time" (MicroLens), or "frequency", most frequent first
            (Amazon; timestamps then no longer ascend).

    Returns:
        `tables.INTERACTIONS` with new positions.

    Raises:
        DataError: A column is missing or of another type.
    """
    kept = (
        conform(interactions, INTERACTIONS, name="interactions")
        .with_columns(pl.len().over("item_id").alias("frequency"))
        .sort("user_id", "frequency", "position", descending=[False, True, False])
        .with_columns(pl.int_range(pl.len()).over("user_id").alias("place"))
        .filter(pl.col("place") < n_items)
    )
    by = "position" if order == "time" else "place"
    ordered = kept.sort("user_id", by).with_columns(
        pl.int_range(pl.len()).over("user_id").alias("position")
    )
    return conform(ordered, INTERACTIONS, name="interactions")


def paper_code_split(interactions: pl.DataFrame, *, seed: int = 42) -> pl.DataFrame:
    """The released code's single split of users, 80 / 10 / 10, as fold 0.

    The proportions and the seed are the released ones; the generator is ours, so the users
    differ.

    Args:
        interactions: `tables.INTERACTIONS`, as `paper_code_interactions` yields them.
        seed: Seed of the split.

    Returns:
        The columns of `SPLITS`, sorted by user.

    Raises:
        DataError: There are fewer than ten users.
    """
    users = _users(interactions)
    if len(users) < 10:
        raise DataError(
            needed="at least 10 users to split 80 / 10 / 10",
            received=f"{len(users)} users",
            remedy="bring more data or use the sound protocol",
        )
    places = _places(hash_ids(users, seed, purpose="released-code"), n_users=len(users))
    split = np.select([places < 0.8, places < 0.9], [_TRAIN, _VALIDATION], default=_TEST)
    return _to_table(users, split, fold=0)


def _users(interactions: pl.DataFrame) -> pl.Series:
    """Distinct user ids, sorted."""
    frame, starts = sorted_blocks(interactions)
    return frame["user_id"].gather(starts[:-1])


def _places(hashes: Hashes, *, n_users: int) -> npt.NDArray[np.float64]:
    """A place in (0, 1) per hash: the hash itself, or its rank where all users are few."""
    if n_users >= _DEALT_BELOW:
        return fraction(hashes)
    places = np.empty(len(hashes))
    places[np.argsort(hashes, kind="stable")] = (np.arange(len(hashes)) + 0.5) / len(hashes)
    return places


def _to_table(users: pl.Series, split: npt.NDArray[np.integer], *, fold: int) -> pl.DataFrame:
    frame = pl.DataFrame({"user_id": users, "split": _NAMES.gather(split)})
    return conform(frame.with_columns(fold=pl.lit(fold)), SPLITS, name="splits")
