"""Tests of the examples of the alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllm_msr.models.inputs import Renderer
from mllm_msr.ranker.alignment.examples import (
    alignment_examples,
    examples_digest,
    render_examples,
)
from mllm_msr.types import Item


def test_text_answers_the_description_and_title_a_question_of_its_own(
    images: Sequence[Path], tmp_path: Path
) -> None:
    (broken := tmp_path / "broken.jpg").write_bytes(b"no image")
    items = [
        Item("1", "Rain", "Calm music.", images[0]),
        Item("2", "Sun", "", images[1]),
        Item("3", "", "", images[2]),
        Item("4", "Without an image", "Text."),
        Item("5", "Unreadable", "Text.", broken),
    ]
    examples = alignment_examples(items, item_type="film", words=40)
    assert [(each.prompt.images[0], each.answer) for each in examples] == [
        (images[0], "Calm music."),
        (images[0], "Rain"),
        (images[1], "Sun"),
    ]
    texts = ["".join(getattr(part, "text", "") for part in each.prompt.messages[0].parts)
             for each in examples]  # fmt: skip
    assert texts[0] == texts[2]
    assert "Describe the picture of this film in at most 40 words" in texts[0]
    assert texts[1] == "What is the title of this film?"
    assert examples_digest(examples) != examples_digest(examples[:2])


def test_answers_end_unless_they_are_cut(
    images: Sequence[Path], processor: Callable[[str], Any]
) -> None:
    renderer = Renderer(processor("llava_efficientnet"), supports_images=True)
    items = [Item("1", "Rain", "", images[0])]
    examples = alignment_examples(items, item_type="film", words=40)
    (whole,) = render_examples(examples, renderer, end_id=7, max_tokens=100)
    assert whole.answer_ids[-1] == 7
    n_tokens = len(whole.answer_ids) - 1
    (cut,) = render_examples(examples, renderer, end_id=7, max_tokens=n_tokens)
    assert cut.answer_ids == whole.answer_ids[:-1]
