from dataclasses import replace

import numpy as np
import pytest

from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.shapes import SHAPES
from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS, TEXT_SLOTS, WorldItem

ITEM = WorldItem(("cooking", "calm", "lantern", "amber", "striped"), "Velora", 5)


def pixels(item):
    return np.asarray(draw_cover(item, size=64)).astype(int)


def other(slot):
    values = list(ITEM.values)
    values[slot] = next(v for v in SLOTS[slot].values if v != values[slot])
    return replace(ITEM, values=tuple(values))


def test_the_same_item_has_the_same_cover():
    assert (pixels(ITEM) == pixels(ITEM)).all()
    assert draw_cover(ITEM, size=64).mode == "RGB"


@pytest.mark.parametrize("slot", IMAGE_SLOTS)
def test_each_picture_slot_changes_the_cover(slot):
    assert np.abs(pixels(ITEM) - pixels(other(slot))).mean() > 2


@pytest.mark.parametrize("slot", TEXT_SLOTS)
def test_no_text_slot_shows_on_the_cover(slot):
    assert (pixels(ITEM) == pixels(other(slot))).all()


def test_the_same_values_are_drawn_in_many_ways():
    assert np.abs(pixels(ITEM) - pixels(replace(ITEM, seed=6))).mean() > 5


def test_every_object_has_a_shape_inside_its_frame():
    objects = next(slot for slot in SLOTS if slot.name == "object")
    assert set(SHAPES) == set(objects.values)
    for pieces in (shape() for shape in SHAPES.values()):
        assert all(max(map(abs, point)) <= 1.1 for piece in pieces for point in piece.points)
