"""The generated world: items made of slots, and users whose tastes drift.

Start of the packaged model's flow: world -> covers, language -> corpus -> pretrain -> measure.
An item has one value per slot. Two slots can only be read in its title (genre, mood), three can
only be seen on its cover (object, palette, pattern). Items cluster into themes (a pair of text
values together with a triple of picture values); every text pair and every picture triple
belongs to several themes, so neither modality alone names the theme. A user follows one theme at
a time and moves to another at change points: the drift that recurrent inference (section 3.2 of
the paper) is made for.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from mllm_msr.errors import UsageError

Values = tuple[str, ...]

_ONSETS: Final = (*"bdfgklmnprstvz", "br", "dr", "kr", "st", "tr", "sh", "ch")

# Worlds that are shown or measured, and seeds that pre-training may use. The ranges do not meet.
DEMO_SEEDS: Final = range(1_000)
MEASURE_SEEDS: Final = range(500_000, 600_000)
PRETRAINING_SEEDS: Final = range(1_000_000, 2_000_000_000)


@dataclass(frozen=True, slots=True)
class Slot:
    """A property of items with a closed set of one-word values.

    Attributes:
        name: What the property is called in questions.
        values: Its values.
        seen: Where it can be read: in the title ("text") or on the cover ("image").
    """

    name: str
    values: tuple[str, ...]
    seen: Literal["text", "image"]


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
TEXT_SLOTS: Final = tuple(i for i, slot in enumerate(SLOTS) if slot.seen == "text")
IMAGE_SLOTS: Final = tuple(i for i, slot in enumerate(SLOTS) if slot.seen == "image")


@dataclass(frozen=True, slots=True)
class WorldItem:
    """One item.

    Attributes:
        values: One value per slot, in the order of `SLOTS`.
        name: Made-up name that its title carries.
        seed: Seed of everything about it that is not a slot: its cover's details, its wording.
    """

    values: Values
    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class WorldUser:
    """One user.

    Attributes:
        history: Indices into the world's items, oldest first.
        tastes: What the user looked for at each step of the history.
    """

    history: tuple[int, ...]
    tastes: tuple[Values, ...]


@dataclass(frozen=True, slots=True)
class World:
    """Items and users of one seed."""

    items: tuple[WorldItem, ...]
    users: tuple[WorldUser, ...]


def make_name(rng: np.random.Generator, *, reserved: bool) -> str:
    """A made-up name such as "Velora".

    Args:
        rng: Source of chance.
        reserved: Names of worlds that are shown or measured never occur in pre-training: a
            checksum tells the two kinds apart.
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
    """Whether a name may only occur in worlds that are shown or measured."""
    return zlib.crc32(name.lower().encode()) % 5 == 0


def random_item(rng: np.random.Generator, *, reserved: bool = False) -> WorldItem:
    """An item whose values are drawn independently and evenly."""
    values = tuple(slot.values[rng.integers(len(slot.values))] for slot in SLOTS)
    return WorldItem(values, make_name(rng, reserved=reserved), int(rng.integers(2**31)))


def make_world(
    seed: int,
    *,
    n_items: int = 400,
    n_users: int = 400,
    min_history: int = 7,
    max_history: int = 16,
    n_pairs: int = 12,
    themes_per_pair: int = 3,
    sharpness: float = 2.2,
    stray: float = 0.15,
    drift: float = 0.15,
) -> World:
    """Generate a world.

    Args:
        seed: A seed out of `DEMO_SEEDS` or `MEASURE_SEEDS`.
        n_items: Size of the catalogue.
        n_users: Number of users.
        min_history: Fewest interactions of a user.
        max_history: Most interactions of a user.
        n_pairs: Number of text pairs, and of picture triples, that themes combine.
        themes_per_pair: Themes that share one text pair (and one picture triple).
        sharpness: Log-odds that one matching slot adds to an item's being chosen.
        stray: Probability that a slot of an item leaves its theme.
        drift: Probability of a change point at a step, from four steps after the last one.

    Raises:
        UsageError: The seed belongs to pre-training.
    """
    _refuse_pretraining(seed)
    rng = np.random.default_rng([seed, 1])
    sizes = np.array([len(slot.values) for slot in SLOTS])
    themes = _themes(rng, sizes, n_pairs=n_pairs, themes_per_pair=themes_per_pair)
    coded = _coded_items(rng, themes, sizes, n_items=n_items, stray=stray)
    names = _distinct_names(rng, n_items)
    items = tuple(
        WorldItem(decode(row), name, int(rng.integers(2**31)))
        for row, name in zip(coded, names, strict=True)
    )
    appeal = rng.normal(0.0, 0.15, n_items)
    first = rng.permutation(n_users) % len(themes)
    users = tuple(
        _user(
            np.random.default_rng([seed, 2, index]),
            coded,
            themes,
            appeal,
            theme=int(first[index]),
            lengths=(min_history, max_history),
            sharpness=sharpness,
            drift=drift,
        )
        for index in range(n_users)
    )
    return World(items, users)


def decode(row: np.ndarray) -> Values:
    """Words of a row of value numbers."""
    return tuple(slot.values[int(number)] for slot, number in zip(SLOTS, row, strict=True))


def _refuse_pretraining(seed: int) -> None:
    if seed not in DEMO_SEEDS and seed not in MEASURE_SEEDS:
        raise UsageError(
            needed=f"a world seed in {DEMO_SEEDS} or {MEASURE_SEEDS}",
            received=str(seed),
            remedy="choose another; the rest is kept for pre-training",
        )


def _distinct_names(rng: np.random.Generator, n_items: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < n_items:
        names[make_name(rng, reserved=True)] = None
    return list(names)


def _themes(
    rng: np.random.Generator, sizes: np.ndarray, *, n_pairs: int, themes_per_pair: int
) -> np.ndarray:
    columns = [rng.permutation(np.arange(n_pairs) % size) for size in sizes]
    table = np.stack(columns, axis=1)  # [pairs, slots]
    split = len(TEXT_SLOTS)
    rows = [
        np.concatenate([table[pair, :split], table[(pair + k * k + k) % n_pairs, split:]])
        for pair in range(n_pairs)
        for k in range(themes_per_pair)
    ]
    return np.stack(rows)


def _coded_items(
    rng: np.random.Generator, themes: np.ndarray, sizes: np.ndarray, *, n_items: int, stray: float
) -> np.ndarray:
    """Value numbers of items [items, slots]: each of a theme, with slots that leave it."""
    coded: np.ndarray = themes[rng.permutation(n_items) % len(themes)].copy()
    strays = rng.random(coded.shape) < stray
    coded[strays] = rng.integers(np.broadcast_to(sizes, coded.shape))[strays]
    return coded


def _user(
    rng: np.random.Generator,
    coded: np.ndarray,
    themes: np.ndarray,
    appeal: np.ndarray,
    *,
    theme: int,
    lengths: tuple[int, int],
    sharpness: float,
    drift: float,
) -> WorldUser:
    history: list[int] = []
    tastes: list[Values] = []
    since_change = 0
    for _ in range(int(rng.integers(lengths[0], lengths[1] + 1))):
        if since_change >= 4 and rng.random() < drift:
            theme = int(rng.integers(len(themes)))
            since_change = 0
        since_change += 1
        logits = sharpness * (coded == themes[theme]).sum(axis=1) + appeal
        logits[history] = -np.inf
        odds = np.exp(logits - logits.max())
        history.append(int(rng.choice(len(coded), p=odds / odds.sum())))
        tastes.append(decode(themes[theme]))
    return WorldUser(tuple(history), tuple(tastes))
