"""Histories and batches lose no item, have no padding and contain no future items."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.baselines._training.histories import (
    UNKNOWN,
    Histories,
    ItemCodes,
    TrainingBatches,
    batch_of,
    histories_before,
    scoring_batches,
    user_histories,
)


def histories(*lists: list[int]) -> Histories:
    starts = np.cumsum([0, *map(len, lists)])
    return Histories(np.array([code for codes in lists for code in codes], dtype=np.int64), starts)


def as_lists(found: Histories) -> list[list[int]]:
    return [found[at].tolist() for at in range(len(found))]


@pytest.fixture
def interactions() -> pl.DataFrame:
    rows = [("b", "x", 0), ("b", "z", 2), ("a", "y", 1), ("a", "x", 0), ("b", "y", 1)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    return frame.with_columns(pl.col("position").cast(pl.Int32))


LENGTHS = st.lists(st.integers(0, 9), max_size=12)


def test_codes_follow_sorted_ids_and_unknown_ids_share_one():
    codes = ItemCodes.from_ids(pl.Series(["z", "x"]), pl.Series(["y", "x"]))
    assert codes.item_ids == ("x", "y", "z")
    assert codes.encode(pl.Series(["z", "?", "x"])).tolist() == [3, UNKNOWN, 1]
    assert codes.n_codes == 4


def test_user_histories_are_in_order_of_users_and_positions(interactions):
    users, found = user_histories(interactions, ItemCodes(("x", "y", "z")))
    assert users == ("a", "b")
    assert as_lists(found) == [[1, 2], [1, 2, 3]]


def test_histories_end_before_the_given_position(interactions):
    keys = pl.DataFrame(
        {"user_id": ["b", "unknown", "a", "b", "b"], "position": [2, 5, 0, 9, 1]},
        schema_overrides={"position": pl.Int32},
    )
    found = histories_before(keys, interactions, ItemCodes(("x", "y", "z")))
    assert as_lists(found) == [[1, 2], [], [], [1, 2, 3], [1]]


def test_unknown_items_are_dropped_from_histories(interactions):
    keys = pl.DataFrame({"user_id": ["b"], "position": [3]})
    found = histories_before(keys, interactions, ItemCodes(("x", "z")))
    assert as_lists(found) == [[1, 2]]


def test_no_interactions_give_empty_histories(interactions):
    keys = pl.DataFrame({"user_id": ["b"], "position": [3]})
    assert as_lists(histories_before(keys, interactions[:0], ItemCodes(("x",)))) == [[]]


def test_latest_keeps_the_last_items():
    assert as_lists(histories([1, 2, 3], [4], []).latest(2)) == [[2, 3], [4], []]


def test_windows_overlap_by_one_item():
    cut = histories([1, 2, 3, 4, 5, 6], [7], [8, 9], []).windows(3)
    assert as_lists(cut) == [[4, 5, 6], [2, 3, 4], [1, 2], [8, 9]]


@given(LENGTHS, st.integers(2, 5))
def test_windows_predict_every_item_except_the_first_exactly_once(lengths, size):
    whole = histories(*(list(range(100 * at, 100 * at + n)) for at, n in enumerate(lengths)))
    cut = whole.windows(size)
    predicted = sorted(code for window in as_lists(cut) for code in window[1:])
    assert predicted == sorted(code for history in as_lists(whole) for code in history[1:])
    assert all(2 <= n <= size for n in cut.lengths)


def test_shifted_batch_predicts_the_next_item_without_padding():
    batch = batch_of(histories([1, 2], [3, 4, 5, 6], [7, 8]), np.array([0, 1, 2]), shifted=True)
    assert batch.rows.tolist() == [1, 0, 2]
    assert batch.items.tolist() == [3, 4, 5, 1, 7]
    assert batch.targets is not None
    assert batch.targets.tolist() == [4, 5, 6, 2, 8]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0]
    assert batch.groups == [(1, 3), (2, 1)]
    assert batch.last.tolist() == [2, 3, 4]


@given(LENGTHS.filter(any))
def test_by_time_matches_torch_packed_sequences(lengths):
    whole = histories(*(list(range(100 * at, 100 * at + n)) for at, n in enumerate(lengths)))
    rows = np.flatnonzero(whole.lengths)
    batch = batch_of(whole, rows)
    order, sizes = batch.by_time()
    packed = torch.nn.utils.rnn.PackedSequence(batch.items[order], sizes)
    sequences = [torch.from_numpy(whole[row]) for row in batch.rows.tolist()]
    expected = torch.nn.utils.rnn.pack_sequence(sequences)
    assert torch.equal(packed.data, expected.data)
    assert torch.equal(packed.batch_sizes, expected.batch_sizes)


def test_each_epoch_contains_every_history_once_in_its_own_order():
    whole = histories(*([at, at + 1] for at in range(10)))
    epochs = [TrainingBatches.shuffled(whole, batch_size=4, seed=1, epoch=e) for e in (0, 1)]
    rows = [torch.cat([batch.rows for batch in epoch]).tolist() for epoch in epochs]
    assert rows[0] != rows[1]
    assert sorted(rows[0]) == sorted(rows[1]) == list(range(10))
    again = TrainingBatches.shuffled(whole, batch_size=4, seed=1, epoch=1)
    assert torch.equal(again[2].rows, epochs[1][2].rows)


@given(LENGTHS, st.integers(1, 20))
def test_scoring_batches_contain_every_nonempty_history_once(lengths, max_tokens):
    whole = histories(*([1] * n for n in lengths))
    batches = list(scoring_batches(whole, max_tokens=max_tokens))
    rows = sorted(row for batch in batches for row in batch.rows.tolist())
    assert rows == np.flatnonzero(whole.lengths).tolist()
    assert all(len(b.items) < max_tokens + max(lengths) for b in batches)
