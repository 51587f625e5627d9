from __future__ import annotations

import itertools

import numpy as np
import pytest

from mllm_msr.ranker.training.sampler import Schedule, count_steps, rate_factor, side_by_side


def schedule(n: int, per_step: int, n_steps: int, seed: int = 0) -> Schedule:
    lengths = np.random.default_rng(1).integers(10, 200, n).tolist()
    return Schedule(lengths, per_step, n_steps=n_steps, seed=seed)


def test_every_epoch_sees_every_example_once() -> None:
    order = schedule(n=64, per_step=4, n_steps=48)
    seen = np.concatenate([order.step(step) for step in range(48)])
    for epoch in range(3):
        assert sorted(seen[epoch * 64 : (epoch + 1) * 64]) == list(range(64))
    assert list(seen[:64]) != list(seen[64:128])


def test_order_is_a_pure_function_of_seed_and_step() -> None:
    forward, backward = schedule(50, 8, 40), schedule(50, 8, 40)
    ahead = [forward.step(step).tolist() for step in range(40)]
    behind = [backward.step(step).tolist() for step in reversed(range(40))]
    assert ahead == behind[::-1]
    assert ahead != [schedule(50, 8, 40, seed=1).step(step).tolist() for step in range(40)]


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = schedule(640, 8, 32), schedule(640, 8, 64)
    assert all((short.step(s) == long.step(s)).all() for s in range(32))


def test_steps_hold_examples_of_similar_length_but_come_in_mixed_order() -> None:
    lengths = np.random.default_rng(1).integers(10, 200, 640)
    order = Schedule(lengths.tolist(), 8, n_steps=80, seed=0)
    steps = [lengths[order.step(step)] for step in range(80)]
    assert np.mean([np.ptp(step) for step in steps]) < 25
    assert all((np.diff(step) >= 0).all() for step in steps)
    means = [step.mean() for step in steps[:16]]
    assert means != sorted(means)


def test_images_stand_together_and_next_to_those_of_like_length() -> None:
    lengths = [9, 1, 5, 7, 2, 6]
    images = [3, 1, 2, 3, 1, 2]
    assert side_by_side(lengths, images).tolist() == [1, 4, 2, 5, 3, 0]
    assert side_by_side(lengths, [0] * 6).tolist() == [1, 4, 2, 5, 3, 0]
    assert side_by_side(lengths, [0, 0, 1, 1, 0, 1]).tolist() == [1, 4, 0, 2, 5, 3]


def test_examples_of_one_image_meet_in_a_step() -> None:
    noise = np.random.default_rng(1)
    lengths, images = noise.integers(10, 200, 2560), noise.integers(0, 80, 2560)
    kept = {}
    for name, shown in (("mixed", None), ("together", images.tolist())):
        order = Schedule(lengths.tolist(), 32, n_steps=80, seed=0, images=shown)
        steps = [order.step(step) for step in range(80)]
        assert sorted(np.concatenate(steps)) == list(range(2560))
        kept[name] = np.mean([len(set(images[step])) for step in steps])
    assert kept["mixed"] > 24
    assert kept["together"] < 10


def test_of_a_few_examples_none_meets_itself() -> None:
    order = Schedule([1] * 16, 8, n_steps=20, seed=0, images=[n % 4 for n in range(16)])
    assert all(len(set(order.step(step))) == 8 for step in range(20))


def test_fewer_examples_than_a_step_takes() -> None:
    order = schedule(n=3, per_step=8, n_steps=3)
    seen = np.concatenate([order.step(step) for step in range(3)])
    assert np.bincount(seen).tolist() == [8, 8, 8]


def test_steps_outside_are_refused() -> None:
    with pytest.raises(IndexError, match="step 3 of 3"):
        schedule(8, 4, 3).step(3)


@pytest.mark.parametrize(
    ("n", "per_step", "epochs", "bound", "expected"),
    [
        (64, 8, 1, None, 8),
        (65, 8, 1, None, 9),
        (64, 8, 0.5, None, 4),
        (64, 8, 3, 10, 10),
        (1, 8, 1, None, 1),
    ],
)
def test_number_of_steps(
    n: int, per_step: int, epochs: float, bound: int | None, expected: int
) -> None:
    steps = count_steps(n, examples_per_step=per_step, epochs=epochs, max_steps=bound)
    assert steps == expected


def test_rate_rises_and_falls() -> None:
    rates = [rate_factor(s, n_steps=100, warmup=0.1, scheduler="cosine") for s in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rate_factor(99, n_steps=100, warmup=0.1, scheduler="constant") == 1.0
    assert rate_factor(0, n_steps=100, warmup=0.0, scheduler="cosine") == 1.0
