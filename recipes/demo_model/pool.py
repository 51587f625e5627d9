"""A pool of drawn covers on disk, so that training never waits for drawing.

Two NumPy arrays in a folder, `covers.npy` [n, size, size, 3] and `values.npy` [n, slots], both
uint8 and read by memory map. The folder lies outside the package and can be drawn again at will.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mllm_msr.demo_model.covers import COVER_VERSION, draw_cover
from mllm_msr.demo_model.world import SLOTS, Values, decode, random_item

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class CoverPool:
    """Covers and what they show.

    Attributes:
        pixels: uint8 [n, size, size, 3].
        codes: uint8 [n, slots], numbers of the slots' values.
    """

    pixels: np.ndarray
    codes: np.ndarray

    def values(self) -> list[Values]:
        """Slot values of each cover, in words."""
        return [decode(row) for row in self.codes]


def open_pool(folder: Path, *, n_covers: int, size: int, seed: int, workers: int = 1) -> CoverPool:
    """Open a pool, drawing it first where it does not exist.

    Args:
        folder: Where it lies; one subfolder per size, seed and number.
        n_covers: Number of covers.
        size: Width and height in pixels; drawn at 256 and reduced, as the processor does.
        seed: Seed of the items.
        workers: Processes that draw.
    """
    place = folder / f"{COVER_VERSION}-{size}-{seed}-{n_covers}"
    if not place.exists():
        starts = range(0, n_covers, _CHUNK)
        jobs = [(seed, start, min(_CHUNK, n_covers - start), size) for start in starts]
        with ProcessPoolExecutor(workers) as executor:
            parts = list(executor.map(_draw_chunk, jobs))
        half_made = place.with_name(f"{place.name}.{os.getpid()}")
        half_made.mkdir(parents=True)
        np.save(half_made / "covers.npy", np.concatenate([pixels for pixels, _ in parts]))
        np.save(half_made / "values.npy", np.concatenate([codes for _, codes in parts]))
        half_made.rename(place)
    return CoverPool(
        np.load(place / "covers.npy", mmap_mode="r", allow_pickle=False),
        np.load(place / "values.npy", allow_pickle=False),
    )


def _draw_chunk(job: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    seed, start, n_covers, size = job
    rng = np.random.default_rng([seed, 5, start])
    pixels = np.empty((n_covers, size, size, 3), dtype=np.uint8)
    codes = np.empty((n_covers, len(SLOTS)), dtype=np.uint8)
    for row in range(n_covers):
        item = random_item(rng)
        cover = draw_cover(item).resize((size, size), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(cover)
        codes[row] = [s.values.index(v) for s, v in zip(SLOTS, item.values, strict=True)]
    return pixels, codes
