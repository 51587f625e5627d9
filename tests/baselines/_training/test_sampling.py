"""Samples of targets and negatives."""

from __future__ import annotations

import numpy as np

from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.sampling import (
    NegativeItems,
    effective_batch_size,
    history_indices,
    preceding_items,
    sample_targets,
    select_histories,
)

# Users with five, one, no and three items.
HISTORIES = Histories(np.array([1, 2, 3, 4, 5, 9, 6, 7, 8]), np.array([0, 5, 6, 6, 9]))


def test_targets_are_distinct_and_have_preceding_items():
    positions = sample_targets(HISTORIES, 2, np.random.default_rng(0))
    assert sorted(history_indices(HISTORIES, positions)) == [0, 0, 3, 3]
    assert len(set(positions)) == 4
    assert not set(positions) & {0, 5, 6}


def test_short_histories_give_all_their_targets():
    positions = sample_targets(HISTORIES, 10, np.random.default_rng(0))
    assert sorted(positions) == [1, 2, 3, 4, 7, 8]


def test_all_targets_are_sampled_eventually_and_sampling_is_seeded():
    epochs = [sample_targets(HISTORIES, 1, np.random.default_rng([3, at])) for at in range(40)]
    assert set(np.concatenate(epochs)) == {1, 2, 3, 4, 7, 8}
    again = sample_targets(HISTORIES, 1, np.random.default_rng([3, 7]))
    assert np.array_equal(epochs[7], again)


def test_preceding_items_end_right_before_the_target():
    read = preceding_items(HISTORIES, np.array([4, 1, 8]), max_length=2)
    assert [read[at].tolist() for at in range(3)] == [[3, 4], [1], [6, 7]]


def test_selected_histories_are_in_the_requested_order():
    picked = select_histories(HISTORIES, np.array([3, 1]))
    assert [picked[at].tolist() for at in range(2)] == [[6, 7, 8], [9]]


def test_negatives_are_items_of_other_users():
    users, items = np.array([0, 0, 0, 1, 1]), np.array([1, 2, 4, 2, 6])
    drawn = NegativeItems(users, items, n_items=9).draw(
        np.array([0, 1] * 200), 3, np.random.default_rng(0)
    )
    assert set(drawn[::2].ravel()) == {6}
    assert set(drawn[1::2].ravel()) == {1, 4}


def test_user_with_every_item_still_gets_negatives():
    drawn = NegativeItems(np.array([0, 0]), np.array([1, 2]), n_items=3).draw(
        np.array([0]), 2, np.random.default_rng(0)
    )
    assert set(drawn.ravel()) <= {1, 2}


def test_interactions_may_be_in_any_order():
    users, items = np.array([0, 0, 1, 0]), np.array([4, 1, 2, 4])
    sampler = NegativeItems(users, items, n_items=9)
    drawn = sampler.draw(np.zeros(50, dtype=np.int64), 2, np.random.default_rng(0))
    assert set(drawn.ravel()) == {2}


def test_effective_batch_size_shrinks_with_small_data() -> None:
    assert effective_batch_size(None, 100_000, default=256) == 256
    assert effective_batch_size(None, 1_600, default=256) == 100  # 16 steps per epoch
    assert effective_batch_size(None, 320, default=256) == 32
    assert effective_batch_size(None, 5, default=256) == 32
    assert effective_batch_size(None, 5, default=8) == 8
    assert effective_batch_size(None, 5, default=8192) == 256
    assert effective_batch_size(7, 100_000, default=256) == 7
