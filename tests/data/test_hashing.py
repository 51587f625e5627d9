import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.data._hashing import below, fraction, hash_ids, mix


def test_hashes_are_the_same_on_every_machine() -> None:
    """Written down once; a change would silently redraw every split and candidate."""
    hashes = hash_ids(["u1", "ü"], 7, purpose="fold")
    assert [f"{value:016x}" for value in hashes.tolist()] == [
        "3022d6dc542f76a6",
        "7ed1d726d18a28ac",
    ]
    assert mix(hashes[:1], np.array([0])).tolist() == [9614129112515160462]


def test_hashes_depend_on_seed_purpose_and_id_alone() -> None:
    base = hash_ids(["a", "b"], 0, purpose="x")
    assert base[0] == hash_ids(["a"], 0, purpose="x")[0]
    assert len({*base, *hash_ids(["a", "b"], 1, purpose="x"), *hash_ids("ab", 0, purpose="y")}) == 6


def test_mixed_counters_are_uniform_and_uncorrelated() -> None:
    numbers = fraction(mix(np.arange(4, dtype=np.uint64)[:, None], np.arange(20_000)[None, :]))
    assert numbers.mean(axis=1) == pytest.approx([0.5] * 4, abs=0.01)
    assert numbers.var(axis=1) == pytest.approx([1 / 12] * 4, abs=0.005)
    correlation = np.corrcoef(np.vstack([numbers, numbers[:1, 1:].tolist()[0] + [0.5]]))
    assert np.abs(correlation - np.eye(5)).max() < 0.03


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 2**31 - 1))
def test_below_stays_below(hashes: list[int], bound: int) -> None:
    drawn = below(np.array(hashes, dtype=np.uint64), bound)
    assert (drawn >= 0).all()
    assert (drawn < bound).all()


def test_fraction_never_reaches_its_ends() -> None:
    ends = fraction(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert 0 < ends[0] < ends[1] < 1
