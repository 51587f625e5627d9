"""Corpus: correct answers, pipeline templates, and nothing that fine-tuning should teach."""

import numpy as np
import pytest

from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS, is_reserved, random_item
from mllm_msr.prompts.templates import render
from recipes.demo_model.corpus import COVER, FAMILIES, Source
from recipes.demo_model.measure import read_values
from recipes.demo_model.teacher import update_preference


def source(seed=0):
    rng = np.random.default_rng([1_000_000, seed])
    return Source(rng, [random_item(rng).values for _ in range(20)])


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_depend_on_the_seed_alone_and_end_with_an_answer(family):
    examples = [FAMILIES[family](source(seed)) for seed in range(30)]
    assert examples == [FAMILIES[family](source(seed)) for seed in range(30)]
    assert all(len(example.turns) % 2 == 1 and all(example.turns) for example in examples)
    assert all((example.cover is None) == (not example.prompt.images) for example in examples)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recommendation_prompt_never_occurs(family):
    template = render("recommend", {"preference": "P", "title": "T"}, item_type="video")
    phrases = [line for line in template.text.splitlines() if len(line) > 20]
    text = " ".join(
        example.prompt.text + " ".join(example.turns)
        for example in (FAMILIES[family](source(seed)) for seed in range(60))
    )
    assert not any(phrase in text for phrase in phrases)
    assert "Predict whether" not in text
    assert "Answer only yes or no" not in text


def test_pipeline_prompts_equal_the_rendered_templates():
    example = FAMILIES["image_description"](source())
    item_type = next(n for n in ("video", "film", "product", "item") if n in example.prompt.text)
    limit = int(example.prompt.text.split("at most ")[1].split()[0])
    expected = render("image_description", {"words": limit}, item_type=item_type, images=[COVER])
    assert example.prompt == expected


def test_descriptions_match_the_cover():
    covers = source(3).covers
    for seed in range(20):
        draw = Source(np.random.default_rng(seed), covers)
        example = FAMILIES["image_description"](draw)
        values = read_values(example.turns[0])
        assert all(values[i] == covers[example.cover][i] for i in IMAGE_SLOTS)


@pytest.mark.parametrize("family", ["preference_first", "preference_update", "preference_direct"])
def test_preferences_equal_those_of_the_teacher(family):
    for seed in range(30):
        example = FAMILIES[family](source(seed))
        lines = example.prompt.text.splitlines()
        block = [read_values(line.split('"')[1]) for line in lines if line[:1].isdigit()]
        before = [line for line in lines if line.startswith("The user's previous")]
        previous = read_values(before[0].split('"')[1]) if before else None
        assert read_values(example.turns[0]) == update_preference(previous, block)


def test_training_never_contains_a_reserved_name():
    for seed in range(50):
        title = FAMILIES["copying"](source(seed)).prompt.text.split('"')[1]
        names = [w.strip(",:!?") for w in title.split()]
        names = [w for w in names if w.isalpha() and w.istitle()]
        plain = FAMILIES["text_summary"](source(seed))
        assert plain.turns[0]
        assert all(not is_reserved(n) or n.lower() in _plain() for n in names)


def _plain():
    from recipes.demo_model.questions import plain_words

    return {*plain_words(), *(value for slot in SLOTS for value in slot.values)}
