"""Covers of generated items, drawn with Pillow.

A cover shows one large object (`shapes`) in the colours of its palette before a patterned
background. Place, size, turn, shade and the pattern's measure vary with the item's seed, so that
reading a cover is recognition and no look-up.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mllm_msr.demo_model.shapes import SHAPES, Piece, Point
from mllm_msr.demo_model.world import SLOTS, WorldItem

Colour = tuple[int, int, int]

# Goes into the names of folders that keep drawn covers: raise it when a drawing changes.
DRAWING: Final = "covers-2"

# Hue in degrees and saturation of each palette.
_HUES: Final = {
    "crimson": (354, 0.72), "amber": (40, 0.85), "emerald": (138, 0.55), "turquoise": (178, 0.6),
    "azure": (214, 0.75), "violet": (268, 0.55), "rose": (324, 0.62), "silver": (210, 0.03),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Paint:
    ground: Colour
    mark: Colour
    main: Colour
    light: Colour
    dark: Colour
    glow: Colour


def draw_cover(item: WorldItem, *, size: int = 256) -> Image.Image:
    """Draw an item's cover.

    Args:
        item: Its picture slots say what is drawn, its seed how.
        size: Width and height of the result, in pixels.

    Returns:
        An RGB image; the same for the same item and size.
    """
    shown = {slot.name: value for slot, value in zip(SLOTS, item.values, strict=True)}
    rng = np.random.default_rng([item.seed, 7])
    canvas = 2 * size  # drawn at twice the size, then halved: smooth edges
    paint = _paint(shown["palette"], rng)
    image = Image.new("RGB", (canvas, canvas), paint.ground)
    _draw_pattern(ImageDraw.Draw(image), shown["pattern"], canvas, paint, rng)
    _shade(image, rng)
    _draw_object(image, SHAPES[shown["object"]](), paint, rng)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    rgb = colorsys.hls_to_rgb((hue % 360) / 360, min(max(lightness, 0), 1), min(saturation, 1))
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def _paint(palette: str, rng: np.random.Generator) -> _Paint:
    usual, saturation = _HUES[palette]
    hue = usual + rng.uniform(-7, 7)
    saturation *= rng.uniform(0.85, 1.15)
    bright = rng.random() < 0.55
    ground = rng.uniform(0.76, 0.84) if bright else rng.uniform(0.24, 0.34)
    mark = ground + (-1 if bright else 1) * rng.uniform(0.15, 0.2)
    main = rng.uniform(0.34, 0.46) if bright else rng.uniform(0.58, 0.68)
    return _Paint(
        ground=_colour(hue, ground, saturation),
        mark=_colour(hue, mark, saturation),
        main=_colour(hue, main, saturation * 1.1),
        light=_colour(hue, 0.93, saturation * 0.8),
        dark=_colour(hue, 0.2 if bright else 0.13, saturation * 0.8),
        glow=_colour(hue, 0.66 if bright else 0.8, saturation),
    )


def _draw_pattern(
    draw: ImageDraw.ImageDraw, pattern: str, canvas: int, paint: _Paint, rng: np.random.Generator
) -> None:
    step = canvas * rng.uniform(0.17, 0.23)
    if pattern == "striped":
        _stripes(draw, canvas, step, paint.mark, rng)
    elif pattern == "dotted":
        _dots(draw, canvas, step, paint.mark, rng)
    elif pattern == "checked":
        _checks(draw, canvas, step, paint.mark, rng)
    elif pattern == "wavy":
        _waves(draw, canvas, step, paint.mark, rng)
    elif pattern == "radial":
        _rays(draw, canvas, paint.mark, rng)


def _stripes(draw: ImageDraw.ImageDraw, canvas: int, step: float, colour: Colour,
             rng: np.random.Generator) -> None:  # fmt: skip
    angle = math.radians(rng.choice([0, 90, 45, -45]) + rng.uniform(-8, 8))
    along = np.array([math.cos(angle), math.sin(angle)]) * canvas
    across = np.array([-math.sin(angle), math.cos(angle)])
    middle = np.array([canvas / 2, canvas / 2])
    start = rng.uniform(0, step)
    for k in range(-12, 13):
        centre = middle + across * (start + k * step)
        half = across * step * 0.25
        corners = [centre - along - half, centre + along - half, centre + along + half,
                   centre - along + half]  # fmt: skip
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=colour)


def _dots(draw: ImageDraw.ImageDraw, canvas: int, step: float, colour: Colour,
          rng: np.random.Generator) -> None:  # fmt: skip
    radius = step * rng.uniform(0.24, 0.3)
    left, top = rng.uniform(0, step, 2)
    for row in range(-1, int(canvas / step) + 2):
        for column in range(-1, int(canvas / step) + 2):
            x = left + (column + 0.5 * (row % 2)) * step
            y = top + row * step
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _checks(draw: ImageDraw.ImageDraw, canvas: int, step: float, colour: Colour,
            rng: np.random.Generator) -> None:  # fmt: skip
    left, top = rng.uniform(-step, 0, 2)
    for row in range(int(canvas / step) + 3):
        for column in range(row % 2, int(canvas / step) + 3, 2):
            x, y = left + column * step, top + row * step
            draw.rectangle((x, y, x + step, y + step), fill=colour)


def _waves(draw: ImageDraw.ImageDraw, canvas: int, step: float, colour: Colour,
           rng: np.random.Generator) -> None:  # fmt: skip
    height = step * rng.uniform(0.35, 0.5)
    length = canvas * rng.uniform(0.22, 0.3)
    start, phase = rng.uniform(0, step), rng.uniform(0, 6.28)
    for k in range(-1, int(canvas / step) + 2):
        course = [
            (float(x), start + k * step + height * math.sin(phase + 6.283 * x / length))
            for x in np.linspace(-10, canvas + 10, 60)
        ]
        draw.line(course, fill=colour, width=round(step * 0.36), joint="curve")


def _rays(draw: ImageDraw.ImageDraw, canvas: int, colour: Colour,
          rng: np.random.Generator) -> None:  # fmt: skip
    n_rays = int(rng.integers(10, 15))
    turn = rng.uniform(0, 6.28)
    x, y = canvas * rng.uniform(0.42, 0.58, 2)
    for k in range(n_rays):
        first = turn + 6.2832 * k / n_rays
        last = first + 3.1416 / n_rays
        reach = 1.5 * canvas
        draw.polygon(
            [
                (x, y),
                (x + reach * math.cos(first), y + reach * math.sin(first)),
                (x + reach * math.cos(last), y + reach * math.sin(last)),
            ],
            fill=colour,
        )


def _shade(image: Image.Image, rng: np.random.Generator) -> None:
    # A soft fall of light over the background keeps large plain areas from looking flat.
    canvas = image.width
    strength = rng.uniform(0.04, 0.14)
    ramp = Image.linear_gradient("L").rotate(float(rng.choice([0, 90, 180, 270])))
    mask = ramp.resize((canvas, canvas)).point(lambda value: int(value * strength))
    image.paste(Image.new("RGB", image.size, (0, 0, 0)), mask=mask)


def _draw_object(
    image: Image.Image, pieces: Iterable[Piece], paint: _Paint, rng: np.random.Generator
) -> None:
    canvas = image.width
    scale = canvas * rng.uniform(0.29, 0.37)
    angle = math.radians(rng.uniform(-14, 14))
    mirror = rng.choice([-1.0, 1.0])
    x, y = canvas * (0.5 + rng.uniform(-0.07, 0.07, 2))
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale

    def place(points: tuple[Point, ...], shift: float) -> list[Point]:
        return [
            (x + shift + cos * mirror * u - sin * v, y + shift + sin * mirror * u + cos * v)
            for u, v in points
        ]

    pieces = list(pieces)
    shadow = Image.new("L", image.size, 0)
    _paint_pieces(ImageDraw.Draw(shadow), pieces, place, scale, shift=canvas * 0.018)
    shadow = shadow.filter(ImageFilter.BoxBlur(canvas * 0.012))
    image.paste(Image.new("RGB", image.size, paint.dark), mask=shadow)
    _paint_pieces(ImageDraw.Draw(image), pieces, place, scale, paint=paint)


def _paint_pieces(
    draw: ImageDraw.ImageDraw,
    pieces: Iterable[Piece],
    place: Callable[[tuple[Point, ...], float], list[Point]],
    scale: float,
    *,
    shift: float = 0.0,
    paint: _Paint | None = None,
) -> None:
    for piece in pieces:
        fill: Colour | int = 110 if paint is None else getattr(paint, piece.shade)
        points = place(piece.points, shift)
        if piece.width:
            draw.line(points, fill=fill, width=max(1, round(piece.width * scale)), joint="curve")
        else:
            draw.polygon(points, fill=fill)
