"""Targets and negatives: drawn from the right places, by the generator alone."""

from __future__ import annotations

import numpy as np

from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.sampling import (
    NegativeItems,
    before,
    chosen,
    drawn_targets,
    owners_of,
    step_size,
)

# Users with five, one, no and three items.
HISTORIES = Histories(np.array([1, 2, 3, 4, 5, 9, 6, 7, 8]), np.array([0, 5, 6, 6, 9]))


def test_targets_have_a_past_and_come_once():
    places = drawn_targets(HISTORIES, 2, np.random.default_rng(0))
    assert sorted(owners_of(HISTORIES, places)) == [0, 0, 3, 3]
    assert len(set(places)) == 4
    assert not set(places) & {0, 5, 6}


def test_short_histories_give_all_they_have():
    places = drawn_targets(HISTORIES, 10, np.random.default_rng(0))
    assert sorted(places) == [1, 2, 3, 4, 7, 8]


def test_every_target_comes_up_in_some_epoch_and_the_seed_decides():
    epochs = [drawn_targets(HISTORIES, 1, np.random.default_rng([3, at])) for at in range(40)]
    assert set(np.concatenate(epochs)) == {1, 2, 3, 4, 7, 8}
    again = drawn_targets(HISTORIES, 1, np.random.default_rng([3, 7]))
    assert np.array_equal(epochs[7], again)


def test_what_comes_before_a_target_ends_right_before_it():
    read = before(HISTORIES, np.array([4, 1, 8]), max_length=2)
    assert [read.of(at).tolist() for at in range(3)] == [[3, 4], [1], [6, 7]]


def test_chosen_histories_come_in_the_order_asked_for():
    picked = chosen(HISTORIES, np.array([3, 1]))
    assert [picked.of(at).tolist() for at in range(2)] == [[6, 7, 8], [9]]


def test_negatives_were_chosen_by_somebody_else():
    users, items = np.array([0, 0, 0, 1, 1]), np.array([1, 2, 4, 2, 6])
    drawn = NegativeItems(users, items, n_items=9).draw(
        np.array([0, 1] * 200), 3, np.random.default_rng(0)
    )
    assert set(drawn[::2].ravel()) == {6}
    assert set(drawn[1::2].ravel()) == {1, 4}


def test_a_user_who_chose_everything_is_served_all_the_same():
    drawn = NegativeItems(np.array([0, 0]), np.array([1, 2]), n_items=3).draw(
        np.array([0]), 2, np.random.default_rng(0)
    )
    assert set(drawn.ravel()) <= {1, 2}


def test_interactions_may_come_in_any_order():
    users, items = np.array([0, 0, 1, 0]), np.array([4, 1, 2, 4])
    sampler = NegativeItems(users, items, n_items=9)
    drawn = sampler.draw(np.zeros(50, dtype=np.int64), 2, np.random.default_rng(0))
    assert set(drawn.ravel()) == {2}


def test_small_data_takes_small_steps() -> None:
    assert step_size(None, 100_000, usual=256) == 256
    assert step_size(None, 1_600, usual=256) == 100  # 16 steps an epoch
    assert step_size(None, 320, usual=256) == 32
    assert step_size(None, 5, usual=256) == 32
    assert step_size(None, 5, usual=8) == 8
    assert step_size(None, 5, usual=8192) == 256
    assert step_size(7, 100_000, usual=256) == 7
