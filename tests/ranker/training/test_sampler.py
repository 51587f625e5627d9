from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.ranker.training.sampler import (
    StepPlan,
    StepSampler,
    learning_rate_factor,
    plan_steps,
    sort_by_group,
)


def sampler(n: int, per_step: int, n_steps: int, seed: int = 0) -> StepSampler:
    lengths = np.random.default_rng(1).integers(10, 200, n).tolist()
    return StepSampler(lengths, per_step, n_steps=n_steps, seed=seed)


def test_every_epoch_contains_every_example_once() -> None:
    sampled = sampler(n=64, per_step=4, n_steps=48)
    seen = np.concatenate([sampled.indices(step) for step in range(48)])
    for epoch in range(3):
        assert sorted(seen[epoch * 64 : (epoch + 1) * 64]) == list(range(64))
    assert list(seen[:64]) != list(seen[64:128])


def test_order_is_a_function_of_seed_and_step() -> None:
    forward, backward = sampler(50, 8, 40), sampler(50, 8, 40)
    ascending = [forward.indices(step).tolist() for step in range(40)]
    descending = [backward.indices(step).tolist() for step in reversed(range(40))]
    assert ascending == descending[::-1]
    assert ascending != [sampler(50, 8, 40, seed=1).indices(step).tolist() for step in range(40)]


def test_longer_run_starts_like_a_shorter_one() -> None:
    short, long = sampler(640, 8, 32), sampler(640, 8, 64)
    assert all((short.indices(s) == long.indices(s)).all() for s in range(32))


def test_steps_have_examples_of_similar_length_in_shuffled_order() -> None:
    lengths = np.random.default_rng(1).integers(10, 200, 640)
    sampled = StepSampler(lengths.tolist(), 8, n_steps=80, seed=0)
    steps = [lengths[sampled.indices(step)] for step in range(80)]
    assert np.mean([np.ptp(step) for step in steps]) < 25
    assert all((np.diff(step) >= 0).all() for step in steps)
    means = [step.mean() for step in steps[:16]]
    assert means != sorted(means)


def test_sort_by_group_sorts_images_by_mean_length() -> None:
    lengths = [9, 1, 5, 7, 2, 6]
    images = [3, 1, 2, 3, 1, 2]
    assert sort_by_group(lengths, images).tolist() == [1, 4, 2, 5, 3, 0]
    assert sort_by_group(lengths, [0] * 6).tolist() == [1, 4, 2, 5, 3, 0]
    assert sort_by_group(lengths, [0, 0, 1, 1, 0, 1]).tolist() == [1, 4, 0, 2, 5, 3]


def test_examples_of_one_image_are_in_the_same_step() -> None:
    noise = np.random.default_rng(1)
    lengths, images = noise.integers(10, 200, 2560), noise.integers(0, 80, 2560)
    n_images = {}
    for name, groups in (("mixed", None), ("together", images.tolist())):
        sampled = StepSampler(lengths.tolist(), 32, n_steps=80, seed=0, groups=groups)
        steps = [sampled.indices(step) for step in range(80)]
        assert sorted(np.concatenate(steps)) == list(range(2560))
        n_images[name] = np.mean([len(set(images[step])) for step in steps])
    assert n_images["mixed"] > 24
    assert n_images["together"] < 10


def test_groups_stay_whole_in_every_epoch() -> None:
    groups = np.repeat(np.arange(640), 4)
    lengths = np.random.default_rng(1).integers(10, 200, 2560)
    sampled = StepSampler(
        lengths.tolist(), 32, n_steps=160, seed=0, groups=groups.tolist(), whole_groups=True
    )
    steps = [sampled.indices(step) for step in range(160)]
    for epoch in (steps[:80], steps[80:]):
        assert sorted(np.concatenate(epoch)) == list(range(2560))
        assert {len(set(groups[step])) for step in epoch} == {8}
    assert [set(groups[step]) for step in steps[:80]] != [set(groups[step]) for step in steps[80:]]
    other = StepSampler(
        lengths.tolist(), 32, n_steps=160, seed=1, groups=groups.tolist(), whole_groups=True
    )
    assert set(groups[other.indices(0)]) != set(groups[steps[0]])


def test_steps_of_short_epochs_have_no_example_twice() -> None:
    sampled = StepSampler([1] * 16, 8, n_steps=20, seed=0, groups=[n % 4 for n in range(16)])
    assert all(len(set(sampled.indices(step))) == 8 for step in range(20))


def test_steps_may_be_larger_than_the_data() -> None:
    sampled = sampler(n=3, per_step=8, n_steps=3)
    seen = np.concatenate([sampled.indices(step) for step in range(3)])
    assert np.bincount(seen).tolist() == [8, 8, 8]


def test_steps_out_of_range_are_rejected() -> None:
    with pytest.raises(IndexError, match=r"Step 3 is not in \[0, 3\)"):
        sampler(8, 4, 3).indices(3)


def plan(n: int, batch: int, epochs: float = 1, *, devices: int = 1, **more: int) -> StepPlan:
    settings = TrainSettings(batch_size=batch, epochs=epochs, **more)
    return plan_steps(n, settings, n_devices=devices)


def test_number_of_steps() -> None:
    assert plan(64, 8) == StepPlan(8, 1, 8, 8)
    assert plan(2212, 32) == StepPlan(32, 1, 32, 70), "70 steps are 1% more than one pass"
    assert plan(64, 8, 0.5) == StepPlan(8, 1, 8, 4)
    assert plan(64, 8, 3, max_steps=10) == StepPlan(8, 1, 8, 10)
    assert plan(64, 2, accumulate=2, devices=2) == StepPlan(2, 2, 8, 8)


def test_large_steps_shrink_to_one_pass_over_the_examples() -> None:
    assert plan(20, 1000, 2) == StepPlan(20, 1, 20, 2)
    assert plan(20, 1000, 0.5) == StepPlan(10, 1, 10, 1)
    assert plan(20, 15, 2) == StepPlan(13, 1, 13, 3)
    assert plan(1, 8) == StepPlan(1, 1, 1, 1)
    assert plan(20, 2, 2, accumulate=1000) == StepPlan(2, 10, 20, 2)
    assert plan(20, 1000, 2, devices=3) == StepPlan(6, 1, 18, 2)
    assert plan(2, 8, devices=4) == StepPlan(1, 1, 4, 1), "each device needs an example"


@given(
    st.integers(1, 500),
    st.integers(1, 600),
    st.integers(1, 8),
    st.integers(1, 4),
    st.floats(0.01, 5),
    st.none() | st.integers(1, 50),
)
def test_training_stays_within_the_requested_passes(
    n: int, batch: int, accumulate: int, devices: int, epochs: float, max_steps: int | None
) -> None:
    settings = TrainSettings(
        batch_size=batch, accumulate=accumulate, epochs=epochs, max_steps=max_steps
    )
    found = plan_steps(n, settings, n_devices=devices)
    assert found.examples_per_step == found.batch_size * found.accumulate * devices
    assert 1 <= found.batch_size <= batch
    assert 1 <= found.examples_per_step <= max(n, devices)
    assert 1 <= found.n_steps <= (max_steps or 10**9)
    if found.examples_per_step > devices:
        assert found.n_steps * found.examples_per_step <= max(1, 1.05 * n * epochs)


def test_learning_rate_rises_and_falls() -> None:
    rates = [
        learning_rate_factor(s, n_steps=100, warmup=0.1, scheduler="cosine") for s in range(101)
    ]
    assert rates[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate_factor(99, n_steps=100, warmup=0.1, scheduler="constant") == 1.0
    assert learning_rate_factor(0, n_steps=100, warmup=0.0, scheduler="cosine") == 1.0
