"""Shapes: one per object, within unit coordinates."""

import pytest

from mllm_msr.demo_model.shapes import SHAPES
from mllm_msr.demo_model.world import SLOTS

SHADES = {"main", "light", "dark", "glow"}


def test_every_object_has_a_shape():
    objects = next(slot for slot in SLOTS if slot.name == "object")
    assert set(SHAPES) == set(objects.values)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_lie_in_unit_coordinates(name):
    points = [point for piece in SHAPES[name]() for point in piece.points]
    assert all(max(map(abs, point)) <= 1.1 for point in points)


@pytest.mark.parametrize("name", SHAPES)
def test_pieces_are_outlines_or_lines_in_a_known_shade(name):
    for piece in SHAPES[name]():
        assert piece.shade in SHADES
        assert piece.width >= 0
        assert len(piece.points) >= 3


def test_shapes_differ():
    assert len({tuple(shape()) for shape in SHAPES.values()}) == len(SHAPES)
