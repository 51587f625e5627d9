"""Texts of the synthetic world: sentences, titles and quoted titles."""

import numpy as np
import pytest

from mllm_msr.demo_model import language
from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS, TEXT_SLOTS, make_world, random_item

VALUES = ("cooking", "epic", "lantern", "amber", "striped")


def test_sentences_contain_every_slot_once():
    assert language.text_summary(VALUES, "Velora", item_type="video") == (
        "An epic video about cooking called Velora."
    )
    assert language.image_description(VALUES) == (
        "A lantern in amber colours on a striped background."
    )
    assert language.fusion(VALUES, "Velora", item_type="film") == (
        "An epic film about cooking called Velora, showing a lantern in amber colours on a striped "
        "background."
    )
    assert language.preference(VALUES, item_type="product") == (
        "The user appears to have a preference for epic products about cooking that show a "
        "lantern in amber colours on a striped background."
    )


def test_unknown_slots_are_left_out():
    text_only = ("cooking", "epic", None, None, None)
    assert language.preference(text_only, item_type="video") == (
        "The user appears to have a preference for epic videos about cooking."
    )
    image_only = (None, None, "lantern", "amber", "striped")
    assert "for videos that show a lantern" in language.preference(image_only, item_type="video")


def test_titles_contain_text_slots_and_name_but_no_image_slots():
    hidden = {value for i in IMAGE_SLOTS for value in SLOTS[i].values}
    rng = np.random.default_rng(0)
    for _ in range(300):
        item = random_item(rng)
        line = language.title(item)
        assert item.name in line
        assert all(item.values[i] in line.lower() for i in TEXT_SLOTS)
        words = set((line + " " + language.text(item)).lower().replace("'", " ").split())
        assert not words & hidden


def test_titles_have_many_wordings():
    items = make_world(0, n_users=1).items[:200]
    frames = {
        language.title(i).lower().replace(i.name.lower(), "N").replace(i.values[0], "g")
        .replace(i.values[1], "m")
        for i in items
    }  # fmt: skip
    assert len(frames) > 12


@pytest.mark.parametrize("item_type", ["video", "item"])
def test_a_title_without_slot_values_is_quoted(item_type):
    article = "An" if item_type == "item" else "A"
    assert (
        language.quote_title(["Dark", "Moon"], item_type=item_type)
        == f"{article} {item_type} called Dark Moon."
    )
