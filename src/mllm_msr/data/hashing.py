"""Counter-based random numbers: each one is a function of (seed, purpose, id, counter).

An ordinary generator advances one state through all users, so adding or removing a user changes
the numbers of every user after them. Here each id has its own stream, so a user's split and
negatives do not depend on which other users are in the data, and are the same on every machine.

How it works:

1. `hash_ids` hashes (seed, purpose, id) with BLAKE2b to 64 bits. The hash identifies the stream.
2. `mix` combines a stream with counters 0, 1, 2, ... using SplitMix64 (Steele, Lea and Flood 2014)
   and returns one 64-bit number per counter.
3. `to_integers` and `to_unit_interval` convert 64-bit numbers to the required range.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# Constants of SplitMix64: the increment and the two multipliers.
_INCREMENT: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2: Final = np.uint64(0x94D049BB133111EB)


def hash_ids(ids: Iterable[str], seed: int, *, purpose: str) -> Hashes:
    """Hash each id to 64 bits.

    Args:
        ids: Identifiers.
        seed: Any integer. Different seeds give independent hashes.
        purpose: Name of what the hashes are used for, such as "fold". Different purposes give
            independent hashes for the same seed. Renaming a purpose changes all its random
            numbers.

    Returns:
        Shape [n_ids].

    Examples:
        >>> hash_ids(["u1"], 7, purpose="fold").tolist()
        [3468570904822249126]
    """
    base = hashlib.blake2b(f"{seed}\n{purpose}\n".encode(), digest_size=8)

    def digest(identifier: str) -> int:
        hasher = base.copy()
        hasher.update(identifier.encode())
        return int.from_bytes(hasher.digest(), "little")

    return np.fromiter((digest(identifier) for identifier in ids), dtype=np.uint64)


def mix(hashes: Hashes, counters: npt.NDArray[np.integer]) -> Hashes:
    """Return the random numbers of the given streams at the given counters.

    Args:
        hashes: Streams, as returned by `hash_ids`.
        counters: Non-negative positions in the streams; broadcast against `hashes`.

    Returns:
        One 64-bit number for each pair of stream and counter, in the broadcast shape.
    """
    # Overflow at 64 bits is intended. NumPy warns about it for scalars, but not for arrays.
    state = np.atleast_1d(hashes) + (counters.astype(np.uint64) + np.uint64(1)) * _INCREMENT
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIER_1
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIER_2
    mixed: Hashes = state ^ (state >> np.uint64(31))
    return mixed


def to_integers(hashes: Hashes, upper: int) -> npt.NDArray[np.int64]:
    """Convert 64-bit numbers to integers in [0, upper).

    Multiplies and shifts instead of taking a remainder. The relative bias of each probability is
    at most upper / 2**32.

    Args:
        hashes: Numbers of any shape.
        upper: Exclusive upper bound, less than 2**31.
    """
    scaled = (hashes >> np.uint64(32)) * np.uint64(upper)
    return (scaled >> np.uint64(32)).astype(np.int64)


def to_unit_interval(hashes: Hashes) -> npt.NDArray[np.float64]:
    """Convert 64-bit numbers to floats in the open interval (0, 1)."""
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
