from __future__ import annotations

import itertools

import numpy as np
import pytest

from mllm_msr.ranker.training.sampler import (
    StepSampler,
    count_steps,
    group_by_image,
    learning_rate_factor,
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


def test_group_by_image_sorts_images_by_mean_length() -> None:
    lengths = [9, 1, 5, 7, 2, 6]
    images = [3, 1, 2, 3, 1, 2]
    assert group_by_image(lengths, images).tolist() == [1, 4, 2, 5, 3, 0]
    assert group_by_image(lengths, [0] * 6).tolist() == [1, 4, 2, 5, 3, 0]
    assert group_by_image(lengths, [0, 0, 1, 1, 0, 1]).tolist() == [1, 4, 0, 2, 5, 3]


def test_examples_of_one_image_are_in_the_same_step() -> None:
    noise = np.random.default_rng(1)
    lengths, images = noise.integers(10, 200, 2560), noise.integers(0, 80, 2560)
    n_images = {}
    for name, groups in (("mixed", None), ("together", images.tolist())):
        sampled = StepSampler(lengths.tolist(), 32, n_steps=80, seed=0, image_groups=groups)
        steps = [sampled.indices(step) for step in range(80)]
        assert sorted(np.concatenate(steps)) == list(range(2560))
        n_images[name] = np.mean([len(set(images[step])) for step in steps])
    assert n_images["mixed"] > 24
    assert n_images["together"] < 10


def test_steps_of_short_epochs_have_no_example_twice() -> None:
    sampled = StepSampler([1] * 16, 8, n_steps=20, seed=0, image_groups=[n % 4 for n in range(16)])
    assert all(len(set(sampled.indices(step))) == 8 for step in range(20))


def test_steps_may_be_larger_than_the_data() -> None:
    sampled = sampler(n=3, per_step=8, n_steps=3)
    seen = np.concatenate([sampled.indices(step) for step in range(3)])
    assert np.bincount(seen).tolist() == [8, 8, 8]


def test_steps_out_of_range_are_rejected() -> None:
    with pytest.raises(IndexError, match=r"Step 3 is not in \[0, 3\)"):
        sampler(8, 4, 3).indices(3)


@pytest.mark.parametrize(
    ("n", "per_step", "epochs", "max_steps", "expected"),
    [
        (64, 8, 1, None, 8),
        (65, 8, 1, None, 9),
        (64, 8, 0.5, None, 4),
        (64, 8, 3, 10, 10),
        (1, 8, 1, None, 1),
    ],
)
def test_number_of_steps(
    n: int, per_step: int, epochs: float, max_steps: int | None, expected: int
) -> None:
    steps = count_steps(n, examples_per_step=per_step, epochs=epochs, max_steps=max_steps)
    assert steps == expected


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
