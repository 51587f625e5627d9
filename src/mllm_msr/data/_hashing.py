"""Random numbers that depend on a seed and a user, and on nothing else.

Splits and negatives must not change for a user because other users came or went, and must be
the same on every machine. Ordinary generators cannot promise that, since their state runs
through all users. Here every number is a function of (seed, purpose, user, counter): the user's
id is hashed with BLAKE2b, counters are mixed in with SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def hash_ids(ids: Iterable[str], seed: int, *, purpose: str) -> Hashes:
    """One 64-bit hash per id.

    Args:
        ids: Identifiers.
        seed: Any integer; other seeds give unrelated hashes.
        purpose: A word that separates the streams of different uses of one seed.

    Returns:
        Shape [n_ids].
    """
    base = hashlib.blake2b(f"{seed}\n{purpose}\n".encode(), digest_size=8)

    def digest(identifier: str) -> int:
        one = base.copy()
        one.update(identifier.encode())
        return int.from_bytes(one.digest(), "little")

    return np.fromiter((digest(identifier) for identifier in ids), dtype=np.uint64)


def mix(hashes: Hashes, counters: npt.NDArray[np.integer]) -> Hashes:
    """The counters' numbers in the streams that the hashes open; shapes are broadcast."""
    # Wrapping at 64 bits is meant; numpy warns of it only for scalars.
    state = np.atleast_1d(hashes) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    mixed: Hashes = state ^ (state >> np.uint64(31))
    return mixed


def below(hashes: Hashes, bound: int) -> npt.NDArray[np.int64]:
    """Integers in [0, bound) from hashes, for bounds below 2**31.

    The bias of the multiplication is at most bound / 2**32 of each probability.
    """
    scaled = (hashes >> np.uint64(32)) * np.uint64(bound)
    return (scaled >> np.uint64(32)).astype(np.int64)


def fraction(hashes: Hashes) -> npt.NDArray[np.float64]:
    """Numbers in the open interval (0, 1) from hashes."""
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
