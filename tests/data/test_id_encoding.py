"""Ids as integer codes, and interactions as sorted arrays."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.data.id_encoding import encode_ids, encode_interactions, sort_by_user


@given(st.lists(st.text(max_size=3), max_size=30))
def test_codes_are_indices_into_the_sorted_distinct_ids(ids: list[str]) -> None:
    codes, distinct = encode_ids(pl.Series(ids, dtype=pl.String))
    assert distinct.to_list() == sorted(set(ids), key=str.encode)
    assert distinct.gather(codes).to_list() == ids


def _table(rows: list[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row").with_columns(
        timestamp=pl.col("position")
    )


def test_sequences_are_sorted_by_user_and_position() -> None:
    shuffled = _table([("b", "y", 0), ("a", "x", 1), ("a", "z", 0), ("b", "x", 1), ("c", "x", 0)])
    sequences = encode_interactions(shuffled)
    assert sequences.users.to_list() == ["a", "b", "c"]
    assert sequences.starts.tolist() == [0, 2, 4, 5]
    assert sequences.items.gather(sequences.item_columns).to_list() == ["z", "x", "y", "x", "x"]
    assert sequences.last_rows.tolist() == [1, 3, 4]
    assert sequences.user_codes.tolist() == [0, 0, 1, 1, 2]


def test_sorted_rows_keep_their_order() -> None:
    table = _table([("a", "z", 0), ("a", "x", 1), ("b", "y", 4)])
    frame, starts = sort_by_user(table)
    assert frame["item_id"].to_list() == ["z", "x", "y"]
    assert starts.tolist() == [0, 2, 3]


def test_users_in_order_with_positions_out_of_order_are_sorted() -> None:
    frame, _ = sort_by_user(_table([("a", "late", 1), ("a", "early", 0)]))
    assert frame["item_id"].to_list() == ["early", "late"]


def test_no_rows_give_empty_sequences() -> None:
    sequences = encode_interactions(_table([("a", "x", 0)]).clear())
    assert sequences.starts.tolist() == [0]
    assert len(sequences.users) == len(sequences.items) == 0
