import itertools

import numpy as np
import pytest

from mllm_msr.demo_model.world import (
    DEMO_SEEDS,
    MEASURE_SEEDS,
    PRETRAINING_SEEDS,
    SLOTS,
    is_reserved,
    make_name,
    make_world,
    random_item,
)
from mllm_msr.errors import UsageError


def test_same_seed_same_world_and_another_seed_another():
    assert make_world(3, n_items=60, n_users=20) == make_world(3, n_items=60, n_users=20)
    assert make_world(3, n_items=60, n_users=20) != make_world(4, n_items=60, n_users=20)


def test_adding_users_leaves_the_items_alone():
    few, many = make_world(3, n_items=60, n_users=5), make_world(3, n_items=60, n_users=50)
    assert few.items == many.items


def test_every_value_of_every_slot_occurs_about_evenly():
    world = make_world(0)
    for index, slot in enumerate(SLOTS):
        counts = dict.fromkeys(slot.values, 0)
        for item in world.items:
            counts[item.values[index]] += 1
        even = len(world.items) / len(slot.values)
        assert min(counts.values()) > 0.3 * even
        assert max(counts.values()) < 2.5 * even


def test_values_are_single_words_that_no_two_slots_share():
    words = [value for slot in SLOTS for value in slot.values]
    assert len(set(words)) == len(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_histories_hold_no_item_twice_and_tastes_drift():
    world = make_world(1, n_users=100)
    assert all(len(set(user.history)) == len(user.history) for user in world.users)
    assert all(7 <= len(user.history) <= 16 for user in world.users)
    assert sum(len(set(user.tastes)) > 1 for user in world.users) > 40


def test_seed_ranges_do_not_meet():
    ranges = (DEMO_SEEDS, MEASURE_SEEDS, PRETRAINING_SEEDS)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))


def test_a_world_refuses_a_seed_of_pre_training():
    with pytest.raises(UsageError, match="kept for pre-training"):
        make_world(PRETRAINING_SEEDS.start)


def test_names_of_shown_worlds_never_occur_in_pre_training():
    rng = np.random.default_rng(0)
    trained = {make_name(rng, reserved=False) for _ in range(2000)}
    shown = {item.name for item in make_world(0, n_users=1).items}
    assert all(is_reserved(name) for name in shown)
    assert not any(is_reserved(name) for name in trained)
    assert not trained & shown


def test_random_items_are_drawn_from_the_generator():
    assert random_item(np.random.default_rng(1)) == random_item(np.random.default_rng(1))
