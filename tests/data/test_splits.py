"""Splits of users: cross-validation, hidden targets, and the released code's protocol."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_msr.data.splits import (
    SPLITS,
    released_code_interactions,
    released_code_split,
    split_users,
    visible_interactions,
)
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import INTERACTIONS


def table(histories: dict[str, str]) -> pl.DataFrame:
    rows = [
        (user, item, 10 * position, position)
        for user, items in histories.items()
        for position, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def users_with_two_items(n_users: int) -> pl.DataFrame:
    return table({f"u{number}": "ab" for number in range(n_users)})


@settings(max_examples=25)
@given(st.integers(2, 60), st.integers(2, 6), st.floats(0, 0.5), st.integers(0, 5))
def test_every_user_is_a_test_user_once_and_has_a_split_in_every_fold(
    n_users: int, folds: int, validation_fraction: float, seed: int
) -> None:
    if n_users < folds:
        n_users = folds
    splits = split_users(
        users_with_two_items(n_users),
        folds=folds,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    assert dict(splits.schema) == dict(SPLITS)
    assert splits.height == n_users * folds
    assert not splits.select("fold", "user_id").is_duplicated().any()
    tests = splits.filter(pl.col("split") == "test")
    assert tests.height == tests["user_id"].n_unique() == n_users
    sizes = tests.group_by("fold").len()["len"]
    assert sizes.max() - sizes.min() <= 1  # type: ignore[operator]


def test_a_fraction_of_the_remaining_users_is_for_validation() -> None:
    splits = split_users(users_with_two_items(500), validation_fraction=0.1)
    sizes = splits.group_by("fold", "split").len().sort("fold", "split")["len"].to_list()
    assert sizes == [100, 360, 40] * 5


def test_splits_depend_on_the_seed_alone() -> None:
    assert split_users(users_with_two_items(100), seed=1).equals(
        split_users(users_with_two_items(100), seed=1)
    )
    assert not split_users(users_with_two_items(100), seed=1).equals(
        split_users(users_with_two_items(100), seed=2)
    )


def test_adding_users_does_not_move_others_in_large_datasets() -> None:
    few, more = split_users(users_with_two_items(2000)), split_users(users_with_two_items(2500))
    joined = few.join(more, on=["fold", "user_id"])
    assert joined.height == few.height
    assert (joined["split"] == joined["split_right"]).all()
    tests = more.filter(pl.col("split") == "test").group_by("fold").len()["len"]
    assert tests.to_list() == pytest.approx([500] * 5, abs=80)


def test_rows_in_any_order_give_the_same_split() -> None:
    interactions = users_with_two_items(30)
    shuffled = interactions.sample(fraction=1, shuffle=True, seed=1)
    assert split_users(shuffled).equals(split_users(interactions))


def test_fewer_users_than_folds_are_an_error() -> None:
    with pytest.raises(DataError, match=r"Cannot make 5 folds from 3 users\. Lower data\.folds"):
        split_users(users_with_two_items(3))


def test_all_invalid_settings_are_reported_together() -> None:
    with pytest.raises(SettingsError) as error:
        split_users(users_with_two_items(3), folds=1, validation_fraction=1.0)
    folds, fraction = error.value.problems
    assert folds == "data.folds is 1. It must be at least 2."
    assert fraction.startswith("data.validation_fraction is 1.0.")


def test_only_the_targets_of_test_and_validation_users_are_hidden() -> None:
    interactions = table({"a": "wxy", "b": "xyz", "c": "zwx"})
    splits = pl.DataFrame(
        {"fold": 0, "user_id": ["a", "b", "c"], "split": ["train", "validation", "test"]}
    )
    visible, train_users = visible_interactions(interactions, splits, 0)
    assert train_users == {"a"}
    assert visible.group_by("user_id", maintain_order=True).agg("item_id").rows() == [
        ("a", ["w", "x", "y"]),
        ("b", ["x", "y"]),
        ("c", ["z", "w"]),
    ]


def test_an_unknown_fold_is_an_error() -> None:
    splits = split_users(users_with_two_items(10), folds=2)
    with pytest.raises(DataError, match=r"no fold 7\. Available: 0, 1"):
        visible_interactions(users_with_two_items(10), splits, 7)


def test_a_user_without_a_split_is_an_error() -> None:
    splits = split_users(users_with_two_items(10))
    with pytest.raises(
        DataError, match=r"1 of 11 users have no split in fold 0 .* first one is 'u10'"
    ):
        visible_interactions(users_with_two_items(11), splits, 0)


# Protocol of the released code. Frequencies in LONG: a 3, b 3, c 2, d 1, e 1.
LONG = {"u": "dabce", "v": "abc", "w": "ab"}


def rewritten(order: str) -> dict[str, str]:
    frame = released_code_interactions(table(LONG), n_items=3, order=order)  # type: ignore[arg-type]
    assert dict(frame.schema) == dict(INTERACTIONS)
    grouped = frame.group_by("user_id", maintain_order=True)
    assert all(p == list(range(len(p))) for p in grouped.agg("position")["position"].to_list())
    return {user: "".join(items) for user, items in grouped.agg("item_id").rows()}


def test_released_code_keeps_frequent_items_in_chronological_order() -> None:
    assert rewritten("time") == {"u": "abc", "v": "abc", "w": "ab"}


def test_released_code_target_is_not_the_next_item() -> None:
    """User u's last item is e, but the target of this protocol is c."""
    assert table(LONG).filter(pl.col("user_id") == "u")["item_id"][-1] == "e"
    assert rewritten("time")["u"][-1] == "c"


def test_released_code_sorts_by_descending_frequency() -> None:
    histories = {"u": "cab", "v": "ba", "w": "b"}
    frame = released_code_interactions(table(histories), n_items=11, order="frequency")
    first = frame.filter(pl.col("user_id") == "u")
    assert first["item_id"].to_list() == ["b", "a", "c"]


def test_released_code_split_is_one_fold_of_80_10_10() -> None:
    splits = released_code_split(users_with_two_items(200))
    assert splits["fold"].unique().to_list() == [0]
    sizes = dict(splits.group_by("split").len().rows())
    assert sizes == {"train": 160, "validation": 20, "test": 20}


def test_released_code_split_needs_ten_users() -> None:
    with pytest.raises(DataError, match=r"9 users are too few .* needs at least 10"):
        released_code_split(users_with_two_items(9))


def test_released_code_split_is_reproducible() -> None:
    """The published comparison depends on these users; renaming the hash purpose changes them."""
    splits = released_code_split(users_with_two_items(20))
    tested = splits.filter(pl.col("split") == "test")["user_id"].to_list()
    assert tested == ["u10", "u17"]
