"""The synthetic world: items described by slots, and users whose tastes drift over time.

An item has one value per slot. Two slots appear only in its title (genre, mood), three only on its
cover (object, palette, pattern). Items belong to themes; a theme is a pair of text values with a
triple of image values. Every text pair and every image triple belongs to several themes, so
neither modality alone identifies the theme. A user follows one theme at a time and switches to
another one at change points. This is the preference drift that recurrent preference inference
(section 3.2 of the paper) addresses.

`datasets/demo.py` turns a world into a dataset. `recipes/demo_model` trains the demo model on
random items with the same slots.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from mllm_msr.errors import UsageError

Values = tuple[str, ...]

_ONSETS: Final = (*"bdfgklmnprstvz", "br", "dr", "kr", "st", "tr", "sh", "ch")

# Seeds of demo worlds, of measurement worlds (which evaluate the model), and of pre-training. The
# ranges are disjoint.
DEMO_SEEDS: Final = range(1_000)
MEASURE_SEEDS: Final = range(500_000, 600_000)
PRETRAINING_SEEDS: Final = range(1_000_000, 2_000_000_000)

# Fewest and most interactions of a user.
_LENGTHS: Final = (7, 16)
# Number of text pairs and of image triples, and of themes with the same pair or triple.
_N_PAIRS: Final = 12
_THEMES_PER_PAIR: Final = 3
# Log-odds that an item gains for each slot that matches the user's taste.
_SHARPNESS: Final = 2.2
# Probability that a slot of an item is replaced by a random value.
_NOISE: Final = 0.15
# Probability of a change point at each step, starting four steps after the last one.
_DRIFT: Final = 0.15


@dataclass(frozen=True, slots=True)
class Slot:
    """A property of items with a fixed set of one-word values.

    Attributes:
        name: Name of the property in questions.
        values: Possible values.
        modality: Where the value appears: in the title ("text") or on the cover ("image").
    """

    name: str
    values: tuple[str, ...]
    modality: Literal["text", "image"]


SLOTS: Final = (
    Slot(
        "genre",
        ("cooking", "travel", "science", "music", "sports", "history", "crafts", "nature"),
        "text",
    ),
    Slot("mood", ("calm", "funny", "epic", "cosy", "gloomy", "festive"), "text"),
    Slot(
        "object",
        (
            "balloon", "boat", "cup", "fish", "flower", "house",
            "key", "lantern", "mushroom", "rocket", "star", "tree",
        ),
        "image",
    ),
    Slot(
        "palette",
        ("crimson", "amber", "emerald", "turquoise", "azure", "violet", "rose", "silver"),
        "image",
    ),
    Slot("pattern", ("plain", "striped", "dotted", "checked", "wavy", "radial"), "image"),
)  # fmt: skip
TEXT_SLOTS: Final = tuple(i for i, slot in enumerate(SLOTS) if slot.modality == "text")
IMAGE_SLOTS: Final = tuple(i for i, slot in enumerate(SLOTS) if slot.modality == "image")


@dataclass(frozen=True, slots=True)
class WorldItem:
    """One item.

    Attributes:
        values: One value per slot, in the order of `SLOTS`.
        name: Invented name, part of the title.
        seed: Seed of everything except the slots: details of the cover, wording of the title.
    """

    values: Values
    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class WorldUser:
    """One user.

    Attributes:
        history: Indices of items in the world, oldest first.
        tastes: Slot values that the user looked for at each step of the history.
    """

    history: tuple[int, ...]
    tastes: tuple[Values, ...]


@dataclass(frozen=True, slots=True)
class World:
    """Items and users generated from one seed."""

    items: tuple[WorldItem, ...]
    users: tuple[WorldUser, ...]


def make_name(rng: np.random.Generator, *, reserved: bool) -> str:
    """Generate a name such as "Velora".

    Args:
        rng: Random generator.
        reserved: Whether to return a reserved name. Demo and measurement worlds use only reserved
            names and pre-training only other names; a checksum distinguishes them.
    """
    while True:
        syllables = [
            _ONSETS[rng.integers(len(_ONSETS))] + "aeiou"[rng.integers(5)]
            for _ in range(rng.integers(2, 4))
        ]
        name = "".join(syllables) + ("", "", "n", "r", "s", "l")[rng.integers(6)]
        if is_reserved(name) == reserved:
            return name.capitalize()


def is_reserved(name: str) -> bool:
    """Check whether a name is reserved for demo and measurement worlds."""
    return zlib.crc32(name.lower().encode()) % 5 == 0


def random_item(rng: np.random.Generator, *, reserved: bool = False) -> WorldItem:
    """Draw an item whose slot values are independent and uniform."""
    values = tuple(slot.values[rng.integers(len(slot.values))] for slot in SLOTS)
    return WorldItem(values, make_name(rng, reserved=reserved), int(rng.integers(2**31)))


def make_world(seed: int, *, n_items: int = 400, n_users: int = 400) -> World:
    """Generate a world.

    Args:
        seed: A seed in `DEMO_SEEDS` or `MEASURE_SEEDS`.
        n_items: Number of items.
        n_users: Number of users.

    Raises:
        UsageError: The seed is reserved for pre-training.
    """
    if seed not in DEMO_SEEDS and seed not in MEASURE_SEEDS:
        raise UsageError(
            f"{seed} is not a world seed (0 to {DEMO_SEEDS.stop - 1}, {MEASURE_SEEDS.start} to "
            f"{MEASURE_SEEDS.stop - 1}). Choose one of these; others are reserved for pre-training."
        )
    rng = np.random.default_rng([seed, 1])
    themes = _themes(rng)
    codes = _item_codes(rng, themes, n_items=n_items)
    names: dict[str, None] = {}
    while len(names) < n_items:
        names[make_name(rng, reserved=True)] = None
    items = tuple(
        WorldItem(decode(row), name, int(rng.integers(2**31)))
        for row, name in zip(codes, names, strict=True)
    )
    appeal = rng.normal(0.0, 0.15, n_items)
    users = tuple(
        _simulate_user(
            np.random.default_rng([seed, 2, index]),
            codes,
            themes,
            appeal,
            theme=int(theme),
        )
        for index, theme in enumerate(rng.permutation(n_users) % len(themes))
    )
    return World(items, users)


def decode(row: np.ndarray) -> Values:
    """Convert value codes, shape [slots], to words."""
    return tuple(slot.values[int(number)] for slot, number in zip(SLOTS, row, strict=True))


def _themes(rng: np.random.Generator) -> np.ndarray:
    """Return the value codes of the themes, shape [pairs * themes per pair, slots]."""
    columns = [rng.permutation(np.arange(_N_PAIRS) % len(slot.values)) for slot in SLOTS]
    table = np.stack(columns, axis=1)  # [pairs, slots]
    split = len(TEXT_SLOTS)
    rows = [
        np.concatenate([table[pair, :split], table[(pair + k * k + k) % _N_PAIRS, split:]])
        for pair in range(_N_PAIRS)
        for k in range(_THEMES_PER_PAIR)
    ]
    return np.stack(rows)


def _item_codes(rng: np.random.Generator, themes: np.ndarray, *, n_items: int) -> np.ndarray:
    """Return the value codes of the items, shape [items, slots]: one theme per item, with noise."""
    codes: np.ndarray = themes[rng.permutation(n_items) % len(themes)].copy()
    is_noise = rng.random(codes.shape) < _NOISE
    sizes = np.array([len(slot.values) for slot in SLOTS])
    codes[is_noise] = rng.integers(np.broadcast_to(sizes, codes.shape))[is_noise]
    return codes


def _simulate_user(
    rng: np.random.Generator,
    codes: np.ndarray,
    themes: np.ndarray,
    appeal: np.ndarray,
    *,
    theme: int,
) -> WorldUser:
    """Simulate the history of a user who starts with the given theme."""
    history: list[int] = []
    tastes: list[Values] = []
    since_change = 0
    for _ in range(int(rng.integers(_LENGTHS[0], _LENGTHS[1] + 1))):
        if since_change >= 4 and rng.random() < _DRIFT:
            theme = int(rng.integers(len(themes)))
            since_change = 0
        since_change += 1
        logits = _SHARPNESS * (codes == themes[theme]).sum(axis=1) + appeal
        logits[history] = -np.inf
        odds = np.exp(logits - logits.max())
        history.append(int(rng.choice(len(codes), p=odds / odds.sum())))
        tastes.append(decode(themes[theme]))
    return WorldUser(tuple(history), tuple(tastes))
