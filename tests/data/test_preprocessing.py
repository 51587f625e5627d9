"""Preprocessing: k-core, order and positions of interactions, items and histories."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_msr.data.preprocessing import (
    _chronological_order,
    histories,
    k_core,
    match_items,
    prepare_interactions,
)
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import INTERACTIONS, ITEMS

Row = tuple[str, str, int]

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


def raw(rows: list[Row]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def prepared(rows: list[Row], **settings: object) -> list[tuple[str, str, int, int]]:
    unfiltered = {"min_user_interactions": 1, "min_item_interactions": 1}
    frame, _ = prepare_interactions(raw(rows), **(unfiltered | settings))  # type: ignore[arg-type]
    return frame.rows()


# k-core


def test_k_core_equals_a_hand_computed_example() -> None:
    """Removing item 2 leaves user 1 with one row; removing user 1 leaves item 1 with one row."""
    user = np.array([0, 0, 1, 1, 2, 2, 0, 2])
    item = np.array([0, 3, 1, 2, 0, 3, 1, 4])
    kept = k_core(user, item, min_user_interactions=2, min_item_interactions=2)
    assert kept.tolist() == [0, 1, 4, 5]


@given(pairs, st.integers(1, 4), st.integers(1, 4))
def test_k_core_meets_its_conditions_and_is_the_largest(
    rows: list[tuple[int, int]], min_user: int, min_item: int
) -> None:
    user, item = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(user, item, min_user_interactions=min_user, min_item_interactions=min_item)
    assert all(n >= min_user for n in Counter(user[kept].tolist()).values())
    assert all(n >= min_item for n in Counter(item[kept].tolist()).values())
    # Second implementation: remove one violating row at a time. The largest core is unique.
    left = set(range(len(rows)))
    while True:
        users, items = Counter(user[i] for i in left), Counter(item[i] for i in left)
        bad = [i for i in left if users[user[i]] < min_user or items[item[i]] < min_item]
        if not bad:
            break
        left.remove(max(bad))
    assert kept.tolist() == sorted(left)


# prepare_interactions


def test_order_is_by_time_and_ties_keep_the_source_order() -> None:
    rows = [("u", "c", 5), ("u", "late", 9), ("u", "a", 5), ("u", "b", 5), ("u", "first", 1)]
    assert [row[1] for row in prepared(rows)] == ["first", "c", "a", "b", "late"]
    assert [row[3] for row in prepared(rows)] == [0, 1, 2, 3, 4]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([-(2**62), -1, 0, 1, 2**62])), max_size=50
    )
)
def test_order_equals_a_stable_sort_by_user_and_time(
    rows: list[tuple[int, int]],
) -> None:
    user = np.array([row[0] for row in rows], dtype=np.int32)
    for shift in (0, 60):
        time = np.array([row[1] >> shift for row in rows], dtype=np.int64)
        order = _chronological_order(user, time).tolist()
        assert order == sorted(range(len(rows)), key=lambda row: (user[row], time[row]))


def test_positions_start_at_zero_for_each_user() -> None:
    rows = [("b", "x", 2), ("a", "x", 1), ("b", "y", 1), ("a", "y", 3)]
    assert prepared(rows) == [
        ("a", "x", 1, 0),
        ("a", "y", 3, 1),
        ("b", "y", 1, 0),
        ("b", "x", 2, 1),
    ]


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [("first", ["x", "y", "z"]), ("last", ["y", "z", "x"]), ("keep", ["x", "y", "x", "z", "x"])],
)
def test_duplicates_policy(duplicates: str, expected: list[str]) -> None:
    rows = [("u", "x", 1), ("u", "y", 2), ("u", "x", 3), ("u", "z", 4), ("u", "x", 5)]
    assert [row[1] for row in prepared(rows, duplicates=duplicates)] == expected


def test_duplicates_do_not_count_for_the_core() -> None:
    rows = [
        ("u", "x", 1),
        ("u", "x", 2),
        ("v", "x", 1),
        ("v", "y", 2),
        ("u", "y", 3),
        ("w", "x", 1),
    ]
    assert {row[0] for row in prepared(rows, min_user_interactions=2)} == {"u", "v"}


def test_counts() -> None:
    rows = [("u", "x", 1), ("u", "x", 2), ("u", "y", 3), ("v", "y", 1)]
    _, counts = prepare_interactions(raw(rows), min_user_interactions=2, min_item_interactions=1)
    assert counts == {
        "raw_interactions": 4,
        "raw_users": 2,
        "raw_items": 2,
        "duplicates_dropped": 1,
        "interactions": 2,
        "users": 1,
        "items": 2,
    }


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 3)), min_size=1
    ),
    st.sampled_from(["first", "last", "keep"]),
)
def test_prepared_tables_are_sorted_dense_and_complete(rows: list[Row], duplicates: str) -> None:
    unfiltered = {"min_user_interactions": 1, "min_item_interactions": 1}
    frame, counts = prepare_interactions(raw(rows), duplicates=duplicates, **unfiltered)  # type: ignore[arg-type]
    assert dict(frame.schema) == dict(INTERACTIONS)
    assert frame.height == counts["raw_interactions"] - counts["duplicates_dropped"]
    for (_,), user in frame.group_by("user_id"):
        assert user["position"].to_list() == list(range(user.height))
        assert user["timestamp"].is_sorted()
    expected = len(rows) if duplicates == "keep" else len({row[:2] for row in rows})
    assert frame.height == expected


def test_a_user_sample_is_complete_and_reproducible() -> None:
    rows = [(f"u{i}", item, t) for i in range(50) for t, item in enumerate("abc")]
    sample = prepared(rows, max_users=7, seed=3)
    assert len(sample) == 21
    assert sample == prepared(rows, max_users=7, seed=3)
    assert {row[0] for row in sample} != {row[0] for row in prepared(rows, max_users=7, seed=4)}
    larger = prepared(rows, max_users=8, seed=3)
    assert {row[0] for row in sample} < {row[0] for row in larger}


def _sparse_rows() -> list[Row]:
    """Return 40 users who choose 3 of 20 items each, and 40 users with one interaction."""
    many = [(f"u{i:02d}", f"i{(i * 7 + j * j) % 20}", j) for i in range(40) for j in range(3)]
    return many + [(f"v{i:02d}", "i0", 9) for i in range(40)]


def test_items_of_a_user_sample_have_enough_interactions_within_the_sample() -> None:
    limits = {"min_user_interactions": 2, "min_item_interactions": 3}
    frame, counts = prepare_interactions(raw(_sparse_rows()), max_users=20, **limits)
    assert frame["item_id"].value_counts()["count"].min() >= 3
    assert frame["user_id"].value_counts()["count"].min() >= 2
    # Users with too few interactions take no place in the sample.
    assert 10 <= counts["users"] <= 20
    assert frame["user_id"].str.starts_with("u").all()


def test_a_user_sample_after_the_filter_keeps_all_its_users() -> None:
    limits = {"min_user_interactions": 2, "min_item_interactions": 3}
    whole, _ = prepare_interactions(raw(_sparse_rows()), **limits)
    frame, counts = prepare_interactions(
        raw(_sparse_rows()), max_users=5, user_sample="after-filter", **limits
    )
    assert counts["users"] == 5
    assert frame.equals(whole.join(frame.select("user_id").unique(), on="user_id", how="semi"))
    assert frame["item_id"].value_counts()["count"].min() < 3


def test_an_empty_k_core_of_a_sample_names_the_settings_of_the_sample() -> None:
    with pytest.raises(
        DataError,
        match=r"sample of at most 2 users.*Raise data\.max_users or set data\.user_sample",
    ):
        prepare_interactions(raw(_sparse_rows()), max_users=2, min_user_interactions=3)


def test_an_empty_k_core_of_repetitions_names_them() -> None:
    rows = [("u", "v1", 1), ("u", "v1", 2), ("u", "v1", 3)]
    with pytest.raises(
        DataError, match=r"2 interactions repeat the user and the item .*\(data\.duplicates\)\. Low"
    ):
        prepare_interactions(raw(rows), min_user_interactions=2, min_item_interactions=1)


def test_an_empty_k_core_is_an_error_with_the_sizes() -> None:
    with pytest.raises(
        DataError, match=r"k-core is empty: of 1 inter.*needs 5 .*Lower data\.min_user"
    ):
        prepare_interactions(raw([("u", "x", 1)]))


def test_all_invalid_settings_are_reported_together() -> None:
    with pytest.raises(
        SettingsError,
        match=r"(?s)data\.min_user_interactions is 0.*max_users is 0.*duplicates is 'all'",
    ):
        prepare_interactions(
            raw([("u", "x", 1)]),
            min_user_interactions=0,
            max_users=0,
            duplicates="all",  # type: ignore[arg-type]
        )


# match_items


def items(*ids: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"item_id": ids, "title": [f"Title {i}" for i in ids], "text": "", "image": None},
        schema=dict(ITEMS),
    )


def test_items_follow_the_interactions_and_unknown_ones_are_counted() -> None:
    interactions = pl.DataFrame({"item_id": ["b", "a", "b", "lost"]})
    matched, counts = match_items(interactions, items("c", "b", "a"))
    assert matched.select("item_id", "title").rows() == [
        ("a", "Title a"),
        ("b", "Title b"),
        ("lost", ""),
    ]
    assert dict(matched.schema) == dict(ITEMS)
    assert counts == {
        "items": 3,
        "items_unknown": 1,
        "items_without_title": 1,
        "items_without_text": 3,
        "items_without_image": 3,
    }


def test_titles_and_texts_are_cleaned() -> None:
    """Check the step that every dataset passes, also those of other packages."""
    dirty = items("a").with_columns(title=pl.lit("Tom &amp;amp; <b>J</b>"), text=pl.lit("x\u200by"))
    matched, _ = match_items(pl.DataFrame({"item_id": ["a"]}), dirty)
    assert matched.select("title", "text").row(0) == ("Tom & J", "xy")


def test_an_item_with_two_rows_is_an_error() -> None:
    with pytest.raises(DataError, match=r"2 rows of the table 'items' share an item id .* is 'a'"):
        match_items(pl.DataFrame({"item_id": ["a"]}), items("a", "a"))


# histories


@pytest.fixture
def interactions() -> pl.DataFrame:
    rows = [("u", item, t) for t, item in enumerate("abcd")] + [("v", "x", 0), ("v", "y", 1)]
    frame, _ = prepare_interactions(raw(rows), min_user_interactions=1, min_item_interactions=1)
    return frame


def test_a_history_ends_before_its_target(interactions: pl.DataFrame) -> None:
    targets = pl.DataFrame(
        {"user_id": ["v", "u", "u", "u", "new", "u"], "position": [1, 3, 1, 0, 5, 3]}
    )
    found = histories(interactions, targets)
    assert found.rows() == [
        ("v", 1, ["x"]),
        ("u", 3, ["a", "b", "c"]),
        ("u", 1, ["a"]),
        ("u", 0, []),
        ("new", 5, []),
    ]


def test_max_length_keeps_the_latest_items(interactions: pl.DataFrame) -> None:
    targets = pl.DataFrame({"user_id": ["u", "v"], "position": [3, 1]})
    found = histories(interactions, targets, max_length=2)
    assert found["history"].to_list() == [["b", "c"], ["x"]]


def test_histories_use_positions_not_row_numbers(interactions: pl.DataFrame) -> None:
    """A table from which rows were removed has gaps in its positions."""
    gaps = interactions.filter(pl.col("item_id") != "b")
    targets = pl.DataFrame({"user_id": ["u"], "position": [3]})
    assert histories(gaps, targets)["history"].to_list() == [["a", "c"]]
