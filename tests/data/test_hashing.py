"""Counter-based random numbers: fixed values, independence and uniformity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.data.hashing import hash_ids, mix, to_integers, to_unit_interval


def test_hash_values_are_fixed() -> None:
    """Guard against a changed hash, which would silently change all splits and candidates."""
    hashes = hash_ids(["u1", "ü"], 7, purpose="fold")
    assert [f"{value:016x}" for value in hashes.tolist()] == [
        "3022d6dc542f76a6",
        "7ed1d726d18a28ac",
    ]
    assert mix(hashes[:1], np.array([0])).tolist() == [9614129112515160462]


def test_hashes_depend_only_on_seed_purpose_and_id() -> None:
    base = hash_ids(["a", "b"], 0, purpose="x")
    assert base[0] == hash_ids(["a"], 0, purpose="x")[0]
    assert len({*base, *hash_ids(["a", "b"], 1, purpose="x"), *hash_ids("ab", 0, purpose="y")}) == 6


def test_mixed_counters_are_uniform_and_uncorrelated() -> None:
    numbers = to_unit_interval(
        mix(np.arange(4, dtype=np.uint64)[:, None], np.arange(20_000)[None, :])
    )
    assert numbers.mean(axis=1) == pytest.approx([0.5] * 4, abs=0.01)
    assert numbers.var(axis=1) == pytest.approx([1 / 12] * 4, abs=0.005)
    correlation = np.corrcoef(np.vstack([numbers, numbers[:1, 1:].tolist()[0] + [0.5]]))
    assert np.abs(correlation - np.eye(5)).max() < 0.03


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 2**31 - 1))
def test_integers_are_below_the_upper_bound(hashes: list[int], upper: int) -> None:
    drawn = to_integers(np.array(hashes, dtype=np.uint64), upper)
    assert (drawn >= 0).all()
    assert (drawn < upper).all()


def test_unit_interval_is_open() -> None:
    ends = to_unit_interval(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert 0 < ends[0] < ends[1] < 1
