"""Questions: correct and balanced answers."""

import numpy as np

from mllm_msr.demo_model.language import NUMBERS
from mllm_msr.demo_model.world import SLOTS, random_item
from recipes.demo_model import questions


def pairs(flat):
    return list(zip(flat[::2], flat[1::2], strict=True))


def test_closed_questions_have_correct_and_balanced_answers():
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(300):
        values = random_item(rng).values
        for question, answer in pairs(questions.about_image(rng, values, n=2)):
            if answer in ("yes", "no"):
                answers.append(answer)
                assert (answer == "yes") == any(v in question.split() or f"{v}?" in question.split()
                                                for v in values[2:])  # fmt: skip
            else:
                assert answer in values[2:]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_shared_values_are_counted():
    first = ("cooking", "calm", "cup", "amber", "plain")
    second = ("cooking", "epic", "cup", "rose", "wavy")
    for question, answer in pairs(
        questions.about_both(np.random.default_rng(1), first, second, n=80)
    ):
        if question.startswith("Do both share at least"):
            minimum = next(n for n, word in enumerate(NUMBERS) if f" {word} " in question)
            assert answer == ("yes" if minimum <= 2 else "no")
        elif question.startswith("How many"):
            assert answer == "two"
        elif question.startswith("What do both"):
            assert answer == "cooking, cup"
        else:
            assert answer == ("yes" if "genre" in question or "object" in question else "no")


def test_values_in_a_list_are_counted():
    block = [("music",), ("travel",), ("music",)]
    answers = {}
    for seed in range(40):
        question, answer = questions.about_list(np.random.default_rng(seed), block)
        answers[question] = answer
    assert answers["How many of them name music?"] == "two"
    assert answers["How many of them name travel?"] == "one"
    assert answers["Is music named more than once?"] == "yes"


def test_plain_words_contain_no_slot_value():
    values = {value for slot in SLOTS for value in slot.values}
    assert len(questions.plain_words()) > 400
    assert not values & set(questions.random_words(np.random.default_rng(0), 3000))
