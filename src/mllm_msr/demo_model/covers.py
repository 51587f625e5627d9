"""Cover images of synthetic items, drawn with Pillow.

A cover shows one large object (`shapes`) in the colors of its palette on a patterned background.
Position, size, rotation, shading and pattern scale vary with the item's seed, so a model must
recognize what a cover shows and cannot memorize it.
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

Color = tuple[int, int, int]

# Part of the names of folders with cached covers. Increase it when the drawing code changes.
COVER_VERSION: Final = "covers-2"

# Hue in degrees and saturation of each palette.
_HUES: Final = {
    "crimson": (354, 0.72), "amber": (40, 0.85), "emerald": (138, 0.55), "turquoise": (178, 0.6),
    "azure": (214, 0.75), "violet": (268, 0.55), "rose": (324, 0.62), "silver": (210, 0.03),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Colors:
    """Colors of one cover.

    Attributes:
        background: Background.
        pattern: Pattern on the background.
        main: Main color of the object.
        light: Lightest parts of the object.
        dark: Darkest parts of the object, and its shadow.
        glow: Parts with a brightness between main and light.
    """

    background: Color
    pattern: Color
    main: Color
    light: Color
    dark: Color
    glow: Color


def draw_cover(item: WorldItem, *, size: int = 256) -> Image.Image:
    """Draw an item's cover.

    Args:
        item: Item whose image slots determine what is drawn, and whose seed determines how.
        size: Width and height of the result, in pixels.

    Returns:
        An RGB image, always the same for the same item and size.
    """
    shown = {slot.name: value for slot, value in zip(SLOTS, item.values, strict=True)}
    rng = np.random.default_rng([item.seed, 7])
    canvas = 2 * size  # drawn at twice the size and reduced, for smooth edges
    colors = _pick_colors(shown["palette"], rng)
    image = Image.new("RGB", (canvas, canvas), colors.background)
    draw = ImageDraw.Draw(image)
    step = canvas * rng.uniform(0.17, 0.23)
    if shown["pattern"] == "striped":
        _draw_stripes(draw, canvas, step, colors.pattern, rng)
    elif shown["pattern"] == "dotted":
        _draw_dots(draw, canvas, step, colors.pattern, rng)
    elif shown["pattern"] == "checked":
        _draw_checks(draw, canvas, step, colors.pattern, rng)
    elif shown["pattern"] == "wavy":
        _draw_waves(draw, canvas, step, colors.pattern, rng)
    elif shown["pattern"] == "radial":
        _draw_rays(draw, canvas, colors.pattern, rng)
    # A gradient keeps large plain areas of the background from being uniform.
    strength = rng.uniform(0.04, 0.14)
    ramp = Image.linear_gradient("L").rotate(float(rng.choice([0, 90, 180, 270])))
    mask = ramp.resize((canvas, canvas)).point(lambda value: int(value * strength))
    image.paste(Image.new("RGB", image.size, (0, 0, 0)), mask=mask)
    _draw_object(image, SHAPES[shown["object"]](), colors, rng)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _color(hue: float, lightness: float, saturation: float) -> Color:
    """Convert HLS (hue in degrees, the others in [0, 1]) to 8-bit RGB."""
    rgb = colorsys.hls_to_rgb((hue % 360) / 360, min(max(lightness, 0), 1), min(saturation, 1))
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def _pick_colors(palette: str, rng: np.random.Generator) -> _Colors:
    """Pick colors near the hue of a palette, on a bright or a dark background."""
    palette_hue, saturation = _HUES[palette]
    hue = palette_hue + rng.uniform(-7, 7)
    saturation *= rng.uniform(0.85, 1.15)
    bright = rng.random() < 0.55
    background = rng.uniform(0.76, 0.84) if bright else rng.uniform(0.24, 0.34)
    pattern = background + (-1 if bright else 1) * rng.uniform(0.15, 0.2)
    main = rng.uniform(0.34, 0.46) if bright else rng.uniform(0.58, 0.68)
    return _Colors(
        background=_color(hue, background, saturation),
        pattern=_color(hue, pattern, saturation),
        main=_color(hue, main, saturation * 1.1),
        light=_color(hue, 0.93, saturation * 0.8),
        dark=_color(hue, 0.2 if bright else 0.13, saturation * 0.8),
        glow=_color(hue, 0.66 if bright else 0.8, saturation),
    )


def _draw_stripes(draw: ImageDraw.ImageDraw, canvas: int, step: float, color: Color,
                  rng: np.random.Generator) -> None:  # fmt: skip
    angle = math.radians(rng.choice([0, 90, 45, -45]) + rng.uniform(-8, 8))
    along = np.array([math.cos(angle), math.sin(angle)]) * canvas
    across = np.array([-math.sin(angle), math.cos(angle)])
    middle = np.array([canvas / 2, canvas / 2])
    start = rng.uniform(0, step)
    for k in range(-12, 13):
        center = middle + across * (start + k * step)
        half = across * step * 0.25
        corners = [center - along - half, center + along - half, center + along + half,
                   center - along + half]  # fmt: skip
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=color)


def _draw_dots(draw: ImageDraw.ImageDraw, canvas: int, step: float, color: Color,
               rng: np.random.Generator) -> None:  # fmt: skip
    radius = step * rng.uniform(0.24, 0.3)
    left, top = rng.uniform(0, step, 2)
    for row in range(-1, int(canvas / step) + 2):
        for column in range(-1, int(canvas / step) + 2):
            x = left + (column + 0.5 * (row % 2)) * step
            y = top + row * step
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _draw_checks(draw: ImageDraw.ImageDraw, canvas: int, step: float, color: Color,
                 rng: np.random.Generator) -> None:  # fmt: skip
    left, top = rng.uniform(-step, 0, 2)
    for row in range(int(canvas / step) + 3):
        for column in range(row % 2, int(canvas / step) + 3, 2):
            x, y = left + column * step, top + row * step
            draw.rectangle((x, y, x + step, y + step), fill=color)


def _draw_waves(draw: ImageDraw.ImageDraw, canvas: int, step: float, color: Color,
                rng: np.random.Generator) -> None:  # fmt: skip
    height = step * rng.uniform(0.35, 0.5)
    length = canvas * rng.uniform(0.22, 0.3)
    start, phase = rng.uniform(0, step), rng.uniform(0, 6.28)
    for k in range(-1, int(canvas / step) + 2):
        points = [
            (float(x), start + k * step + height * math.sin(phase + 6.283 * x / length))
            for x in np.linspace(-10, canvas + 10, 60)
        ]
        draw.line(points, fill=color, width=round(step * 0.36), joint="curve")


def _draw_rays(draw: ImageDraw.ImageDraw, canvas: int, color: Color,
               rng: np.random.Generator) -> None:  # fmt: skip
    n_rays = int(rng.integers(10, 15))
    rotation = rng.uniform(0, 6.28)
    x, y = canvas * rng.uniform(0.42, 0.58, 2)
    for k in range(n_rays):
        first = rotation + 6.2832 * k / n_rays
        last = first + 3.1416 / n_rays
        length = 1.5 * canvas
        draw.polygon(
            [
                (x, y),
                (x + length * math.cos(first), y + length * math.sin(first)),
                (x + length * math.cos(last), y + length * math.sin(last)),
            ],
            fill=color,
        )


def _draw_object(
    image: Image.Image, pieces: Iterable[Piece], colors: _Colors, rng: np.random.Generator
) -> None:
    """Draw an object and its shadow at a random position, size, rotation and mirroring."""
    canvas = image.width
    scale = canvas * rng.uniform(0.29, 0.37)
    angle = math.radians(rng.uniform(-14, 14))
    mirror = rng.choice([-1.0, 1.0])
    x, y = canvas * (0.5 + rng.uniform(-0.07, 0.07, 2))
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale

    def to_pixels(points: tuple[Point, ...], shift: float) -> list[Point]:
        return [
            (x + shift + cos * mirror * u - sin * v, y + shift + sin * mirror * u + cos * v)
            for u, v in points
        ]

    pieces = list(pieces)
    shadow = Image.new("L", image.size, 0)
    _draw_pieces(ImageDraw.Draw(shadow), pieces, to_pixels, scale, shift=canvas * 0.018)
    shadow = shadow.filter(ImageFilter.BoxBlur(canvas * 0.012))
    image.paste(Image.new("RGB", image.size, colors.dark), mask=shadow)
    _draw_pieces(ImageDraw.Draw(image), pieces, to_pixels, scale, colors=colors)


def _draw_pieces(
    draw: ImageDraw.ImageDraw,
    pieces: Iterable[Piece],
    to_pixels: Callable[[tuple[Point, ...], float], list[Point]],
    scale: float,
    *,
    shift: float = 0.0,
    colors: _Colors | None = None,
) -> None:
    """Draw the pieces of an object in its colors, or in gray on a shadow mask."""
    for piece in pieces:
        fill: Color | int = 110 if colors is None else getattr(colors, piece.shade)
        points = to_pixels(piece.points, shift)
        if piece.width:
            draw.line(points, fill=fill, width=max(1, round(piece.width * scale)), joint="curve")
        else:
            draw.polygon(points, fill=fill)
