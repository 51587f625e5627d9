import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.data._id_encoding import blocks, encode, sorted_blocks


@given(st.lists(st.text(max_size=3), max_size=30))
def test_codes_are_places_in_the_sorted_distinct_ids(ids: list[str]) -> None:
    codes, distinct = encode(pl.Series(ids, dtype=pl.String))
    assert distinct.to_list() == sorted(set(ids), key=str.encode)
    assert distinct.gather(codes).to_list() == ids


def _table(rows: list[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row").with_columns(
        timestamp=pl.col("position")
    )


def test_blocks_sort_rows_and_find_each_users_stretch() -> None:
    shuffled = _table([("b", "y", 0), ("a", "x", 1), ("a", "z", 0), ("b", "x", 1), ("c", "x", 0)])
    found = blocks(shuffled)
    assert found.users.to_list() == ["a", "b", "c"]
    assert found.starts.tolist() == [0, 2, 4, 5]
    assert found.items.gather(found.item).to_list() == ["z", "x", "y", "x", "x"]
    assert found.last.tolist() == [1, 3, 4]
    assert found.user.tolist() == [0, 0, 1, 1, 2]


def test_sorted_rows_are_left_as_they_are() -> None:
    table = _table([("a", "z", 0), ("a", "x", 1), ("b", "y", 4)])
    frame, starts = sorted_blocks(table)
    assert frame["item_id"].to_list() == ["z", "x", "y"]
    assert starts.tolist() == [0, 2, 3]


def test_users_in_order_with_positions_out_of_order_are_sorted() -> None:
    frame, _ = sorted_blocks(_table([("a", "late", 1), ("a", "early", 0)]))
    assert frame["item_id"].to_list() == ["early", "late"]


def test_no_rows_no_blocks() -> None:
    found = blocks(_table([("a", "x", 0)]).clear())
    assert found.starts.tolist() == [0]
    assert len(found.users) == len(found.items) == 0
