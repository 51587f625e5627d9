from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.errors import AnswerTokenError, DataError
from mllm_msr.models.inputs import IGNORED_LABEL, Renderer
from mllm_msr.models.loading import load_processor
from mllm_msr.ranker.training.collator import Collator

Checkpoint = Callable[[str], Path]


def collator(folder: Path, examples: Any, **options: Any) -> Collator:
    processor = load_processor(str(folder))
    images = hasattr(processor, "tokenizer")
    return Collator(Renderer(processor, supports_images=images), examples, **options)


def test_answer_loss_labels_the_answer_alone(
    tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    examples = make_examples(6)
    made = collator(tiny_checkpoint("llama"), examples)
    batch = made.training_batch(range(6))
    is_labeled = batch["labels"] != IGNORED_LABEL
    assert is_labeled.sum(dim=1).tolist() == [1] * 6
    # Each answer is the last token of its row, and the token that scoring reads.
    assert is_labeled.int().argmax(dim=1).tolist() == (batch["attention_mask"].sum(1) - 1).tolist()
    labels = batch["labels"][is_labeled].tolist()
    yes, no = made.choice_ids
    assert labels == [yes if example.label else no for example in examples]


def test_full_loss_labels_all_text(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    folder = tiny_checkpoint("llava_next")
    placeholder = load_processor(str(folder)).tokenizer.convert_tokens_to_ids("<image>")
    examples = make_examples(6, shown=True)
    ids = frozenset({placeholder})
    batch = collator(folder, examples, loss="full", image_token_ids=ids).training_batch(range(6))
    images = batch["input_ids"] == placeholder
    padding = batch["attention_mask"] == 0
    assert images.any()
    assert padding.any()
    assert torch.equal(batch["labels"] == IGNORED_LABEL, images | padding)
    text = ~(images | padding)
    assert torch.equal(batch["labels"][text], batch["input_ids"][text])


def test_scoring_batch_is_the_training_batch_without_answers(
    tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    made = collator(tiny_checkpoint("llama"), make_examples(3))
    training, scoring = made.training_batch([0, 1, 2]), made.scoring_batch([0, 1, 2])
    assert "labels" not in scoring
    assert (training["attention_mask"].sum(1) - scoring["attention_mask"].sum(1)).tolist() == [
        1
    ] * 3
    for row in range(3):
        n_tokens = int(scoring["attention_mask"][row].sum())
        assert torch.equal(
            training["input_ids"][row, :n_tokens], scoring["input_ids"][row, :n_tokens]
        )


def test_pixels_can_be_left_out(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    made = collator(tiny_checkpoint("llava_next"), make_examples(2, shown=True))
    whole, without = made.training_batch([0, 1]), made.training_batch([0, 1], pixels=False)
    assert set(whole) - set(without) == {"pixel_values"}
    assert torch.equal(whole["input_ids"], without["input_ids"])


def test_examples_are_rendered_once_while_there_is_room(
    tiny_checkpoint: Checkpoint, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = collator(tiny_checkpoint("llama"), make_examples(2))
    first = made.rendered(0)
    assert made.rendered(0) is first
    full = collator(tiny_checkpoint("llama"), make_examples(2))
    monkeypatch.setattr(full, "_free_tokens", 3)
    assert full.rendered(0) == first
    assert full.rendered(0) is not full.rendered(0)


def test_lengths_order_like_token_counts(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    made = collator(tiny_checkpoint("llama"), make_examples(40))
    lengths = made.lengths()
    tokens = [len(made.rendered(index).input_ids) for index in range(len(made))]
    shortest, longest = lengths.index(min(lengths)), lengths.index(max(lengths))
    assert tokens[shortest] < tokens[longest]


def test_prompts_of_a_target_are_a_group_if_they_begin_with_the_user(
    tiny_checkpoint: Checkpoint, make_lists: Any
) -> None:
    made = collator(tiny_checkpoint("llama"), make_lists(3, 2, shown=False), order="user-first")
    assert made.prefix_groups() == [0, 0, 1, 1, 2, 2]


def test_prompts_of_an_image_are_a_group(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    examples = [*make_examples(6, shown=True), *make_examples(2)]
    numbers = collator(tiny_checkpoint("llava_next"), examples).prefix_groups()
    images = [example.prompt.images for example in examples]
    for one, number in zip(images, numbers, strict=True):
        assert [n == number for n in numbers] == [other == one for other in images]


def test_answer_that_scoring_does_not_read_is_rejected(
    tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    made = collator(tiny_checkpoint("llama"), [replace(e, label=0) for e in make_examples(2)])
    yes, no = made.choice_ids
    made.__dict__["choice_ids"] = (no, yes)
    with pytest.raises(AnswerTokenError, match="answer 'no' would be trained as the tokens"):
        made.rendered(0)


def test_lists_are_the_candidates_of_each_target(
    tiny_checkpoint: Checkpoint, make_lists: Any
) -> None:
    examples = [
        replace(example, label=int(number % 2 == 0))
        for number, example in enumerate(make_lists(3, 2, shown=False))
    ]
    mixed = [examples[index] for index in (0, 2, 4, 1, 5, 3)]
    made = collator(tiny_checkpoint("llama"), mixed, order="user-first")
    assert made.lists() == [[0, 3], [1, 5], [2, 4]]
    assert made.labels([0, 3, 1]).tolist() == [1.0, 0.0, 1.0]
    for labels, problem in (((0, 0), "has 0 positives and 2 negatives"), ((1, 1), "2 positives")):
        pair = [
            replace(example, label=label)
            for example, label in zip(examples[:2], labels, strict=True)
        ]
        with pytest.raises(DataError, match=problem):
            collator(tiny_checkpoint("llama"), pair, order="user-first").lists()
