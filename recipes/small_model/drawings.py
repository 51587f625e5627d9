"""Random scenes that Pillow draws, with what they show.

There are four kinds: covers of the demo's world (an object on a pattern), geometric shapes that can
be counted, landscapes at a time of day, and groups of people.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.world import SLOTS, random_item

Color = tuple[int, int, int]

SIZE: Final = 224

COLORS: Final[dict[str, Color]] = {
    "red": (205, 40, 40), "orange": (236, 136, 40), "yellow": (244, 216, 60),
    "green": (52, 150, 70), "blue": (46, 92, 200), "purple": (128, 64, 170),
    "pink": (240, 140, 180), "brown": (122, 78, 46), "gray": (130, 130, 130),
    "black": (22, 22, 26), "white": (244, 244, 244), "turquoise": (60, 190, 185),
}  # fmt: skip
SHAPES: Final = ("circle", "square", "triangle", "star", "ring", "cross")
TIMES: Final = ("day", "night", "sunset")
NUMBERS: Final = ("one", "two", "three", "four")
# The plain words for the palettes of the demo's covers.
_PALETTES: Final = {
    "crimson": "red", "amber": "orange", "emerald": "green", "turquoise": "turquoise",
    "azure": "blue", "violet": "purple", "rose": "pink", "silver": "gray",
}  # fmt: skip
_SKINS: Final = ((246, 212, 180), (198, 140, 98), (120, 78, 52))
_HAIR: Final = ((40, 26, 20), (200, 160, 80), (90, 50, 30))
_SKIES: Final[dict[str, tuple[Color, Color]]] = {
    "day": ((96, 168, 240), (206, 232, 252)),
    "night": ((8, 10, 34), (38, 42, 86)),
    "sunset": ((92, 48, 120), (250, 150, 70)),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What a scene shows.

    Attributes:
        kind: "cover", "shapes", "landscape" or "people".
        subject: The main thing, such as "a red boat".
        setting: The background, such as "a striped background".
        key: The word that names the subject in an answer ("boat").
        colors: Names of the main colors, the most important first.
        is_dark: Whether the scene is dark.
    """

    kind: str
    subject: str
    setting: str
    key: str
    colors: tuple[str, ...]
    is_dark: bool


def draw_scene(rng: np.random.Generator) -> tuple[Image.Image, Scene]:
    """Draw a random scene.

    Args:
        rng: Random generator; the same state gives the same scene.

    Returns:
        An RGB image of `SIZE` x `SIZE` pixels, and what it shows.
    """
    kind = rng.choice(["cover", "shapes", "landscape", "people"], p=[0.4, 0.2, 0.25, 0.15])
    draw = {"cover": _cover, "shapes": _shapes, "landscape": _landscape, "people": _people}
    image, subject, setting, key, colors = draw[str(kind)](rng)
    is_dark = float(np.asarray(image.convert("L")).mean()) < 100
    return image, Scene(str(kind), subject, setting, key, colors, is_dark)


Drawn = tuple[Image.Image, str, str, str, tuple[str, ...]]


def _cover(rng: np.random.Generator) -> Drawn:
    item = random_item(rng, reserved=False)
    shown = {slot.name: value for slot, value in zip(SLOTS, item.values, strict=True)}
    color = _PALETTES[shown["palette"]]
    image = draw_cover(item, size=SIZE)
    subject = f"{_article(color)} {shown['object']}"
    return image, subject, f"a {shown['pattern']} background", shown["object"], (color,)


def _shapes(rng: np.random.Generator) -> Drawn:
    names = list(COLORS)
    ground, color = (names[i] for i in rng.choice(len(names), 2, replace=False))
    shape, n = str(rng.choice(SHAPES)), int(rng.integers(1, 5))
    image = Image.new("RGB", (2 * SIZE, 2 * SIZE), _vary(COLORS[ground], rng))
    draw = ImageDraw.Draw(image)
    radius = 2 * SIZE * rng.uniform(0.24, 0.36) if n == 1 else SIZE * rng.uniform(0.26, 0.4)
    for x, y in _places(n, rng):
        _draw_shape(draw, shape, (x, y), radius, (_vary(COLORS[color], rng), COLORS[ground]))
    subject = (
        f"{_article(color)} {shape}" if n == 1 else f"{NUMBERS[n - 1]} {color} {_plural(shape)}"
    )
    key = shape
    image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return image, subject, f"{_article(ground)} background", key, (color, ground)


def _landscape(rng: np.random.Generator) -> Drawn:
    terrain, time = str(rng.choice(list(_TERRAINS))), str(rng.choice(TIMES))
    top, bottom = (_vary(color, rng) for color in _SKIES[time])
    size = 2 * SIZE
    ramp = np.linspace(0, 1, size)[:, None, None]
    sky = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    image = Image.fromarray(np.broadcast_to(sky, (size, size, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y, radius = size * rng.uniform(0.15, 0.85), size * rng.uniform(0.1, 0.4), size * 0.07
    sun = {"day": (255, 236, 120), "night": (236, 236, 226), "sunset": (255, 206, 110)}[time]
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=sun)
    if time == "night":
        for _ in range(int(rng.integers(20, 50))):
            u, v = rng.uniform(0, size), rng.uniform(0, size * 0.5)
            draw.ellipse((u - 2, v - 2, u + 2, v + 2), fill=(230, 230, 230))
    _draw_terrain(draw, terrain, size, 0.45 if time == "night" else 0.8, rng)
    colors = {"day": "blue", "night": "black", "sunset": "orange"}[time]
    image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return (
        image,
        terrain,
        {"day": "daylight", "night": "the night", "sunset": "a sunset"}[time],
        (terrain.rpartition(" ")[2]),
        (colors,),
    )


def _people(rng: np.random.Generator) -> Drawn:
    names = list(COLORS)
    ground, color = (names[i] for i in rng.choice(len(names), 2, replace=False))
    n = int(rng.integers(1, 5))
    size = 2 * SIZE
    image = Image.new("RGB", (size, size), _vary(COLORS[ground], rng))
    height = size * (0.7 if n == 1 else 0.5)
    for k in range(n):
        x = size * (k + 0.5 + rng.uniform(-0.1, 0.1)) / n
        _draw_person(ImageDraw.Draw(image), x, size * rng.uniform(0.9, 1.0), height, color, rng)
    image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    subject = f"one person in {color}" if n == 1 else f"{NUMBERS[n - 1]} people in {color}"
    key = "person" if n == 1 else "people"
    return image, subject, f"{_article(ground)} background", key, (color, ground)


def _draw_person(  # noqa: PLR0917 - private, and all of them are needed
    draw: ImageDraw.ImageDraw,
    x: float,
    foot: float,
    height: float,
    color: str,
    rng: np.random.Generator,
) -> None:
    """Draw a person who stands at a point."""
    head, skin = height * 0.16, _SKINS[int(rng.integers(3))]
    shirt, waist, neck = _vary(COLORS[color], rng), foot - height * 0.4, foot - height * 0.66
    for side in (-1, 1):
        leg = (x, waist, x + side * head * 0.8, foot)
        draw.line(leg, fill=(50, 50, 70), width=round(head * 0.6))
        draw.line((x, neck, x + side * head * 1.6, waist), fill=shirt, width=round(head * 0.5))
    body = (x - head * 0.7, foot - height * 0.7, x + head * 0.7, foot - height * 0.36)
    draw.rectangle(body, fill=shirt)
    middle = foot - height * 0.7 - head
    face = (x - head, middle - head, x + head, middle + head)
    draw.ellipse(face, fill=skin)
    draw.pieslice(face, 180, 360, fill=_HAIR[int(rng.integers(3))])
    for side in (-1, 1):
        u = x + side * head * 0.4
        draw.ellipse((u - 4, middle + 4, u + 4, middle + 14), fill=(20, 20, 20))
    mouth = (x - head / 2, middle, x + head / 2, middle + head * 0.7)
    draw.arc(mouth, 20, 160, fill=(120, 30, 30), width=5)


@dataclass(frozen=True, slots=True)
class _Ground:
    """The lower part of a landscape, and what is needed to draw on it."""

    draw: ImageDraw.ImageDraw
    size: int
    horizon: float
    light: float
    rng: np.random.Generator

    def shade(self, color: Color, factor: float = 1.0) -> Color:
        """Return a color in the light of the landscape."""
        red, green, blue = (round(channel * self.light * factor) for channel in color)
        return red, green, blue


def _draw_terrain(
    draw: ImageDraw.ImageDraw, terrain: str, size: int, light: float, rng: np.random.Generator
) -> None:
    """Draw the lower part of a landscape."""
    ground = _Ground(draw, size, size * rng.uniform(0.55, 0.65), light, rng)
    draw.rectangle((0, ground.horizon, size, size), fill=ground.shade(_GROUNDS[terrain]))
    _TERRAINS[terrain](ground)


def _draw_mountains(ground: _Ground) -> None:
    rng, size, horizon = ground.rng, ground.size, ground.horizon
    for x in np.sort(rng.uniform(0, size, 4)):
        wide, high = size * rng.uniform(0.22, 0.34), size * rng.uniform(0.25, 0.42)
        top = horizon - high
        rock = ground.shade((120, 112, 116), rng.uniform(0.8, 1))
        ground.draw.polygon([(x - wide, horizon), (x, top), (x + wide, horizon)], fill=rock)
        snow = [(x - wide / 4, top + high / 4), (x, top), (x + wide / 4, top + high / 4)]
        ground.draw.polygon(snow, fill=ground.shade((250, 250, 250)))


def _draw_sea(ground: _Ground) -> None:
    for y in np.arange(ground.horizon + 12, ground.size, 24):
        points = [(float(x), y + 5 * math.sin(x / 16 + y)) for x in range(0, ground.size + 8, 8)]
        ground.draw.line(points, fill=ground.shade((90, 160, 220)), width=4)


def _draw_forest(ground: _Ground) -> None:
    rng, size = ground.rng, ground.size
    for x in rng.uniform(0, size, 16):
        foot = ground.horizon + rng.uniform(0, size * 0.25)
        high = size * rng.uniform(0.2, 0.32)
        trunk = (x - 5, foot - 10, x + 5, foot + 16)
        ground.draw.rectangle(trunk, fill=ground.shade((100, 66, 40)))
        leaves = [(x - high / 3, foot), (x, foot - high), (x + high / 3, foot)]
        ground.draw.polygon(leaves, fill=ground.shade((30, 110, 50), rng.uniform(0.7, 1.1)))


def _draw_city(ground: _Ground) -> None:
    rng, size = ground.rng, ground.size
    x = 0.0
    while x < size:
        wide = size * rng.uniform(0.07, 0.14)
        top = ground.horizon - size * rng.uniform(0.1, 0.42)
        wall = ground.shade((100, 104, 120), rng.uniform(0.5, 1))
        ground.draw.rectangle((x, top, x + wide, size), fill=wall)
        for u in np.arange(x + 8, x + wide - 10, 16):
            for v in np.arange(top + 10, size - 20, 22):
                if rng.random() < 0.6:
                    ground.draw.rectangle((u, v, u + 8, v + 10), fill=(250, 220, 130))
        x += wide


def _draw_desert(ground: _Ground) -> None:
    size = ground.size
    for k in range(3):
        y = ground.horizon + k * size * 0.12
        points = [(float(x), y - 22 * math.sin(x / 70 + k * 2)) for x in range(0, size + 8, 8)]
        sand = ground.shade(_GROUNDS["a desert"], 1 - 0.1 * k)
        ground.draw.polygon([*points, (size, size), (0, size)], fill=sand)


def _draw_snow(ground: _Ground) -> None:
    for _ in range(60):
        u, v = ground.rng.uniform(0, ground.size, 2)
        ground.draw.ellipse((u - 3, v - 3, u + 3, v + 3), fill=(255, 255, 255))


_GROUNDS: Final[dict[str, Color]] = {
    "mountains": (96, 110, 90), "the sea": (30, 90, 170), "a forest": (60, 100, 50),
    "a city": (90, 90, 96), "a desert": (224, 186, 110), "a snowy field": (250, 250, 255),
}  # fmt: skip
_TERRAINS: Final[dict[str, Callable[[_Ground], None]]] = {
    "mountains": _draw_mountains, "the sea": _draw_sea, "a forest": _draw_forest,
    "a city": _draw_city, "a desert": _draw_desert, "a snowy field": _draw_snow,
}  # fmt: skip


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    center: tuple[float, float],
    radius: float,
    colors: tuple[Color, Color],
) -> None:
    """Draw a shape in the first of two colors; the second one is behind it."""
    color, ground = colors
    x, y = center
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "square":
        draw.rectangle(box, fill=color)
    elif shape == "ring":
        draw.ellipse(box, fill=color)
        inner = radius * 0.55
        draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=ground)
    elif shape == "cross":
        arm = radius * 0.3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=color)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=color)
    else:
        n = 3 if shape == "triangle" else 10
        corners = []
        for k in range(n):
            reach = radius * (0.42 if n == 10 and k % 2 else 1.0)
            angle = 2 * math.pi * k / n - math.pi / 2
            corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(corners, fill=color)


def _places(n: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the centers of n shapes that do not overlap, on a canvas of 2 `SIZE`."""
    if n == 1:
        return [(SIZE * rng.uniform(0.9, 1.1), SIZE * rng.uniform(0.9, 1.1))]
    cells = rng.choice(4, n, replace=False)
    shift = rng.uniform(-0.08, 0.08, (n, 2))
    return [
        (SIZE * (0.5 + cell % 2 + u), SIZE * (0.5 + cell // 2 + v))
        for cell, (u, v) in zip(cells, shift, strict=True)
    ]


def _vary(color: Color, rng: np.random.Generator) -> Color:
    """Change a color a little."""
    red, green, blue = np.clip(np.array(color) + rng.integers(-14, 15, 3), 0, 255).tolist()
    return red, green, blue


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word}s"
