"""Covers: deterministic images that show exactly the image slots."""

from dataclasses import replace

import numpy as np
import pytest

from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS, TEXT_SLOTS, WorldItem

ITEM = WorldItem(("cooking", "calm", "lantern", "amber", "striped"), "Velora", 5)


def pixels(item):
    return np.asarray(draw_cover(item, size=64)).astype(int)


def with_other_value(slot):
    values = list(ITEM.values)
    values[slot] = next(v for v in SLOTS[slot].values if v != values[slot])
    return replace(ITEM, values=tuple(values))


def test_a_cover_is_deterministic():
    assert (pixels(ITEM) == pixels(ITEM)).all()
    assert draw_cover(ITEM, size=64).mode == "RGB"


@pytest.mark.parametrize("slot", IMAGE_SLOTS)
def test_each_image_slot_changes_the_cover(slot):
    assert np.abs(pixels(ITEM) - pixels(with_other_value(slot))).mean() > 2


@pytest.mark.parametrize("slot", TEXT_SLOTS)
def test_text_slots_do_not_change_the_cover(slot):
    assert (pixels(ITEM) == pixels(with_other_value(slot))).all()


def test_the_seed_varies_the_cover():
    assert np.abs(pixels(ITEM) - pixels(replace(ITEM, seed=6))).mean() > 5
