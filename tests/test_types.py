"""Records of prompts and answers: images in reading order, immutability, JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mllm_msr.types import ChoiceScores, Completion, ImagePart, Item, Message, Prompt, TextPart

PROMPT = Prompt(
    (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (ImagePart(Path("a.png")), TextPart("Then", trimmable=1))),
        Message("assistant", (TextPart("Yes."),)),
        Message("user", (ImagePart(Path("b.png")), ImagePart(Path("a.png")))),
    )
)


def test_images_are_in_reading_order_with_repetitions() -> None:
    assert PROMPT.images == (Path("a.png"), Path("b.png"), Path("a.png"))
    assert Prompt((Message("user", (TextPart("Hello"),)),)).images == ()


def test_parts_and_texts_are_in_reading_order() -> None:
    kinds = [type(part) for part in PROMPT.parts]
    assert kinds == [TextPart, ImagePart, TextPart, TextPart, ImagePart, ImagePart]
    assert PROMPT.texts == ("Be brief.", "Then", "Yes.")
    message = Message("user", (TextPart("a"), ImagePart(Path("a.png")), TextPart("b")))
    assert Prompt((message, message)).text == "ab\nab"


def test_equal_prompts_have_equal_hashes() -> None:
    assert hash(dataclasses.replace(PROMPT)) == hash(PROMPT)
    assert dataclasses.replace(PROMPT, max_new_tokens=1) != PROMPT


@pytest.mark.parametrize("record", [PROMPT, Completion("text"), ChoiceScores((-0.5, -1.0))])
def test_records_are_frozen_and_can_be_written_as_json(record: object) -> None:
    assert dataclasses.is_dataclass(record)
    assert json.loads(json.dumps(dataclasses.asdict(record), default=str))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "changed")


def test_items_of_rows_with_and_without_several_images() -> None:
    row = {"item_id": "i", "title": None, "text": "A text.", "image": "a.png"}
    item = Item.from_row(row)
    assert item == Item("i", "", "A text.", Path("a.png"))
    assert item.images == (Path("a.png"),)
    item = Item.from_row(row | {"more_images": ["b.png", "c.png"]})
    assert item.images == (Path("a.png"), Path("b.png"), Path("c.png"))
    assert item.with_images(item.images[1:]).image == Path("b.png")
    assert item.with_images(()) == Item.from_row(row | {"image": None, "more_images": None})
    assert Item("i").images == ()
