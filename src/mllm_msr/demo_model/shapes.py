"""Shapes of the objects on covers, in unit coordinates.

A shape is a list of strokes and filled outlines. x and y range from -1 to 1, and y points down.
`covers` moves, rotates, scales and colors them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a shape.

    Attributes:
        points: Outline of the part, or points of a line if `width` is set.
        shade: Name of the color that fills it: "main", "light", "dark" or "glow".
        width: Line width in unit coordinates, 0 for a filled outline.
    """

    points: tuple[Point, ...]
    shade: str
    width: float = 0.0


def _oval(x: float, y: float, rx: float, ry: float, *, start: float = 0, stop: float = 360,
          n: int = 36) -> tuple[Point, ...]:  # fmt: skip
    angles = [math.radians(start + (stop - start) * i / n) for i in range(n + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _box(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _balloon() -> list[Piece]:
    return [
        Piece(((0, 0.45), (0.1, 0.62), (-0.08, 0.8), (0.04, 1.0)), "dark", 0.06),
        Piece(_oval(0, -0.3, 0.64, 0.72), "main"),
        Piece(((-0.14, 0.54), (0.14, 0.54), (0, 0.36)), "main"),
        Piece(_oval(-0.24, -0.52, 0.13, 0.22), "light"),
    ]


def _boat() -> list[Piece]:
    return [
        Piece(_box(-0.05, -0.95, 0.05, 0.4), "dark"),
        Piece(((0.1, -0.9), (0.1, 0.25), (0.8, 0.25)), "light"),
        Piece(((-0.1, -0.65), (-0.1, 0.25), (-0.65, 0.25)), "glow"),
        Piece(((-1, 0.36), (1, 0.36), (0.62, 0.88), (-0.62, 0.88)), "main"),
    ]


def _cup() -> list[Piece]:
    return [
        Piece(_oval(0.55, 0.12, 0.32, 0.3), "main", 0.13),
        Piece(((-0.66, -0.3), (0.56, -0.3), (0.4, 0.72), (-0.5, 0.72)), "main"),
        Piece(_oval(-0.05, -0.3, 0.61, 0.15), "dark"),
        Piece(((-0.25, -0.55), (-0.15, -0.7), (-0.3, -0.82), (-0.2, -0.98)), "light", 0.08),
        Piece(((0.1, -0.55), (0.2, -0.7), (0.05, -0.82), (0.15, -0.98)), "light", 0.08),
        Piece(_box(-0.72, 0.72, 0.6, 0.84), "light"),
    ]


def _fish() -> list[Piece]:
    return [
        Piece(((0.45, 0), (1, -0.45), (0.88, 0), (1, 0.45)), "dark"),
        Piece(((-0.25, -0.35), (0.2, -0.72), (0.35, -0.25)), "dark"),
        Piece(_oval(-0.2, 0, 0.78, 0.45), "main"),
        Piece(((-0.1, 0.05), (0.25, 0.3), (0.25, -0.1)), "light"),
        Piece(_oval(-0.62, -0.1, 0.11, 0.11), "light"),
        Piece(_oval(-0.64, -0.1, 0.05, 0.05), "dark"),
    ]


def _flower() -> list[Piece]:
    pieces = [
        Piece(((0, 0), (0.05, 0.5), (0, 1)), "dark", 0.1),
        Piece(((0.02, 0.78), (0.3, 0.5), (0.5, 0.55), (0.3, 0.75)), "dark"),
    ]
    for k in range(6):
        angle = math.radians(60 * k)
        center = (0.4 * math.cos(angle), -0.3 + 0.4 * math.sin(angle))
        pieces.append(Piece(_oval(*center, 0.27, 0.27), "main"))
    return [*pieces, Piece(_oval(0, -0.3, 0.25, 0.25), "light")]


def _house() -> list[Piece]:
    return [
        Piece(_box(0.35, -0.85, 0.55, -0.3), "dark"),
        Piece(_box(-0.65, -0.15, 0.65, 0.85), "main"),
        Piece(((-0.92, -0.1), (0, -0.95), (0.92, -0.1)), "dark"),
        Piece(_box(-0.45, 0.05, -0.1, 0.38), "light"),
        Piece(_box(0.12, 0.2, 0.45, 0.85), "light"),
    ]


def _key() -> list[Piece]:
    return [
        Piece(_oval(-0.58, 0, 0.34, 0.34), "main", 0.2),
        Piece(_box(-0.22, -0.1, 1, 0.1), "main"),
        Piece(_box(0.5, 0.08, 0.64, 0.42), "main"),
        Piece(_box(0.8, 0.08, 0.97, 0.5), "main"),
    ]


def _lantern() -> list[Piece]:
    return [
        Piece(_oval(0, -0.62, 0.26, 0.3, start=180, stop=360), "dark", 0.09),
        Piece(((-0.32, -0.62), (0.32, -0.62), (0.52, -0.38), (-0.52, -0.38)), "dark"),
        Piece(((-0.46, -0.38), (0.46, -0.38), (0.56, 0.68), (-0.56, 0.68)), "main"),
        Piece(((-0.28, -0.24), (0.28, -0.24), (0.34, 0.54), (-0.34, 0.54)), "light"),
        Piece(((0, -0.14), (0.17, 0.24), (0, 0.45), (-0.17, 0.24)), "glow"),
        Piece(_box(-0.62, 0.68, 0.62, 0.9), "dark"),
    ]


def _mushroom() -> list[Piece]:
    return [
        Piece(((-0.22, 0), (0.22, 0), (0.32, 0.88), (-0.32, 0.88)), "light"),
        Piece((*_oval(0, 0.1, 0.9, 0.92, start=180, stop=360), (0.6, 0.2), (-0.6, 0.2)), "main"),
        Piece(_oval(-0.4, -0.2, 0.17, 0.14), "light"),
        Piece(_oval(0.12, -0.5, 0.19, 0.15), "light"),
        Piece(_oval(0.5, -0.12, 0.14, 0.12), "light"),
    ]


def _rocket() -> list[Piece]:
    return [
        Piece(((-0.2, 0.6), (0.2, 0.6), (0, 1.05)), "glow"),
        Piece(((-0.28, 0.1), (-0.66, 0.72), (-0.24, 0.6)), "dark"),
        Piece(((0.28, 0.1), (0.66, 0.72), (0.24, 0.6)), "dark"),
        Piece(
            ((0, -1.02), (0.22, -0.68), (0.34, -0.2), (0.34, 0.3), (0.24, 0.62), (-0.24, 0.62),
             (-0.34, 0.3), (-0.34, -0.2), (-0.22, -0.68)),
            "main",
        ),
        Piece(_oval(0, -0.25, 0.17, 0.17), "light"),
    ]  # fmt: skip


def _star() -> list[Piece]:
    points = []
    for k in range(10):
        radius = 1.0 if k % 2 == 0 else 0.42
        angle = math.radians(36 * k - 90)
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    inner = tuple((0.5 * x, 0.5 * y) for x, y in points)
    return [Piece(tuple(points), "main"), Piece(inner, "light")]


def _tree() -> list[Piece]:
    return [
        Piece(_box(-0.12, 0.55, 0.12, 0.98), "dark"),
        Piece(((0, -0.1), (0.78, 0.66), (-0.78, 0.66)), "main"),
        Piece(((0, -0.58), (0.6, 0.2), (-0.6, 0.2)), "main"),
        Piece(((0, -1), (0.42, -0.28), (-0.42, -0.28)), "main"),
        Piece(((-0.42, 0.2), (0.42, 0.2), (0, 0.3)), "dark"),
        Piece(((-0.28, -0.28), (0.28, -0.28), (0, -0.2)), "dark"),
    ]


SHAPES: Final[Mapping[str, Callable[[], list[Piece]]]] = MappingProxyType(
    {
        "balloon": _balloon, "boat": _boat, "cup": _cup, "fish": _fish, "flower": _flower,
        "house": _house, "key": _key, "lantern": _lantern, "mushroom": _mushroom,
        "rocket": _rocket, "star": _star, "tree": _tree,
    }
)  # fmt: skip
