"""Cover pool: drawn once, dependent on the seed."""

import numpy as np

from mllm_msr.demo_model.world import SLOTS
from recipes.demo_model.pool import open_pool


def test_a_pool_is_drawn_once(tmp_path):
    drawn = open_pool(tmp_path, n_covers=6, size=32, seed=1_000_001)
    (folder,) = tmp_path.iterdir()
    stamp = (folder / "covers.npy").stat().st_mtime_ns
    again = open_pool(tmp_path, n_covers=6, size=32, seed=1_000_001)
    assert (folder / "covers.npy").stat().st_mtime_ns == stamp
    assert np.array_equal(drawn.pixels, again.pixels)
    assert drawn.pixels.shape == (6, 32, 32, 3)
    assert all(value in slot.values for row in again.values()
               for slot, value in zip(SLOTS, row, strict=True))  # fmt: skip


def test_covers_depend_on_the_seed(tmp_path):
    first = open_pool(tmp_path, n_covers=4, size=32, seed=1_000_001)
    second = open_pool(tmp_path, n_covers=4, size=32, seed=1_000_002)
    assert not np.array_equal(first.pixels, second.pixels)
