"""Pool of covers on disk, so that training does not wait for drawing.

A pool is a folder with two NumPy arrays of type uint8: `covers.npy` [n, size, size, 3], opened as a
memory map, and `values.npy` [n, slots]. If it is deleted, the next run draws it again.
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
    """Covers and the slot values that they show.

    Attributes:
        pixels: uint8 [n, size, size, 3].
        codes: uint8 [n, slots]. Index of each value in its slot's values.
    """

    pixels: np.ndarray
    codes: np.ndarray

    def values(self) -> list[Values]:
        """Return the slot values of each cover as words."""
        return [decode(row) for row in self.codes]


def open_pool(folder: Path, *, n_covers: int, size: int, seed: int, workers: int = 1) -> CoverPool:
    """Open a pool, after drawing it if it does not exist.

    Args:
        folder: Parent folder; each combination of size, seed and number has its own subfolder.
        n_covers: Number of covers.
        size: Width and height in pixels. Covers are drawn at 256 pixels and reduced, as the
            model's processor does.
        seed: Seed of the items.
        workers: Number of processes that draw.
    """
    path = folder / f"{COVER_VERSION}-{size}-{seed}-{n_covers}"
    if not path.exists():
        starts = range(0, n_covers, _CHUNK)
        jobs = [(seed, start, min(_CHUNK, n_covers - start), size) for start in starts]
        with ProcessPoolExecutor(workers) as executor:
            parts = list(executor.map(_draw_chunk, jobs))
        # Renaming is atomic, so an interrupted run leaves no incomplete pool.
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        np.save(temporary / "covers.npy", np.concatenate([pixels for pixels, _ in parts]))
        np.save(temporary / "values.npy", np.concatenate([codes for _, codes in parts]))
        temporary.rename(path)
    return CoverPool(
        np.load(path / "covers.npy", mmap_mode="r", allow_pickle=False),
        np.load(path / "values.npy", allow_pickle=False),
    )


def _draw_chunk(job: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw the covers of one job (seed, start, number, size) and return pixels and codes."""
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
