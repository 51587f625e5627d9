"""Quiz: accuracy by kind of question, against the majority answer."""

from pathlib import Path

import numpy as np
import pytest

from mllm_msr.demo_model.world import random_item
from mllm_msr.types import ImagePart
from recipes.demo_model.quiz import quiz

RNG = np.random.default_rng(0)
SHOWN = [random_item(RNG).values for _ in range(30)]
COVERS = [Path(f"cover{number}.png") for number in range(30)]


def test_a_constant_answer_is_as_accurate_as_the_majority():
    found = quiz(lambda prompts: ["yes"] * len(prompts), COVERS, SHOWN, seed=1, n_examples=200)
    closed = found["presence: Does it name ...?"]
    assert closed["accuracy"] == pytest.approx(0.5, abs=0.15)
    assert closed["majority"] >= closed["accuracy"]
    assert closed["n"] >= 20


def test_prompts_show_the_files_of_the_covers():
    paths = set()

    def answer(prompts):
        for prompt in prompts:
            parts = prompt.messages[0].parts
            paths.update(part.path for part in parts if isinstance(part, ImagePart))
        return [""] * len(prompts)

    found = quiz(answer, COVERS, SHOWN, seed=1, n_examples=60, min_count=1)
    assert paths <= set(COVERS)
    assert len(paths) > 10
    assert all(kind["accuracy"] == 0 for kind in found.values())


def test_rare_kinds_of_questions_are_left_out():
    def answer(prompts):
        return ["no"] * len(prompts)

    every = quiz(answer, COVERS, SHOWN, seed=1, n_examples=60, min_count=1)
    frequent = quiz(answer, COVERS, SHOWN, seed=1, n_examples=60)
    assert set(frequent) < set(every)
