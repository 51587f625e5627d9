"""The synthetic world: determinism, distributions, drift, and reserved seeds and names."""

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


def test_a_world_depends_on_the_seed_alone():
    assert make_world(3, n_items=60, n_users=20) == make_world(3, n_items=60, n_users=20)
    assert make_world(3, n_items=60, n_users=20) != make_world(4, n_items=60, n_users=20)


def test_adding_users_does_not_change_the_items():
    few, many = make_world(3, n_items=60, n_users=5), make_world(3, n_items=60, n_users=50)
    assert few.items == many.items


def test_slot_values_are_roughly_uniform():
    world = make_world(0)
    for index, slot in enumerate(SLOTS):
        counts = dict.fromkeys(slot.values, 0)
        for item in world.items:
            counts[item.values[index]] += 1
        expected = len(world.items) / len(slot.values)
        assert min(counts.values()) > 0.3 * expected
        assert max(counts.values()) < 2.5 * expected


def test_slot_values_are_distinct_single_words():
    words = [value for slot in SLOTS for value in slot.values]
    assert len(set(words)) == len(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_histories_have_no_repeated_items_and_tastes_drift():
    world = make_world(1, n_users=100)
    assert all(len(set(user.history)) == len(user.history) for user in world.users)
    assert all(7 <= len(user.history) <= 16 for user in world.users)
    assert sum(len(set(user.tastes)) > 1 for user in world.users) > 40


def test_seed_ranges_are_disjoint():
    ranges = (DEMO_SEEDS, MEASURE_SEEDS, PRETRAINING_SEEDS)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))


def test_a_pretraining_seed_is_an_error():
    with pytest.raises(
        UsageError, match=r"1000000 is not a world seed \(0 to 999, .*reserved for pre-training"
    ):
        make_world(PRETRAINING_SEEDS.start)


def test_names_of_worlds_never_occur_in_pretraining():
    rng = np.random.default_rng(0)
    pretraining = {make_name(rng, reserved=False) for _ in range(2000)}
    in_world = {item.name for item in make_world(0, n_users=1).items}
    assert all(is_reserved(name) for name in in_world)
    assert not any(is_reserved(name) for name in pretraining)
    assert not pretraining & in_world


def test_random_items_depend_on_the_generator_alone():
    assert random_item(np.random.default_rng(1)) == random_item(np.random.default_rng(1))
