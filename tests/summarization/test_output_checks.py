"""Output checks: unusable answers are recognized, retried, and returned as failures."""

from __future__ import annotations

import doctest

import pytest

from mllm_msr.backends.mock import MockBackend
from mllm_msr.prompts import templates
from mllm_msr.summarization import output_checks
from mllm_msr.summarization.output_checks import find_fault, generate_checked
from mllm_msr.summarization.preferences import OPENING
from mllm_msr.types import Message, Prompt, TextPart

DATA = {"summaries": ["a calm film with a red lantern"], "words": 80}
FRENCH = (
    "Une histoire calme dans laquelle une lanterne rouge guide les enfants vers leur petite "
    "maison pendant que leurs parents dorment encore"
)
PREFERENCE = templates.render("preference_first", DATA, item_type="film")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("\ufffd\ufffd\ufffd ### $$$ \ufffd", "garbage"),
        ("1, 2, 3, 4, 5, 6, 7, 8", "garbage"),
        ("!!!!!!!!", "garbage"),
        ("I'm sorry, but I can't help with this image.", "refusal"),
        ("As an AI language model, I do not see images.", "refusal"),
        ("Unfortunately, I cannot see it.", "refusal"),
        ("rose " * 40, "repetition_loop"),
        ("The user likes videos for" + "udis" * 40 + ".", "repetition_loop"),
        ("It is calm. It is very calm and slow. " * 8, "repetition_loop"),
        ("Это спокойный фильм о красном фонаре", "language"),
        ("一部关于红灯笼的安静电影", "language"),
        (FRENCH, "language"),
    ],
)
def test_faults_are_detected_from_the_answer(text: str, fault: str) -> None:
    assert find_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "A thing.",
        "Lantern",
        "A balloon in turquoise colours on a checked background.",
        "A film called 红灯笼 about two sisters.",
        "A documentary, 1984, 90 minutes; episodes 1-12 (of 24).",
        "I can see a boat; sorry sailors row, row, row it.",
        f"{OPENING} calm films, slow films and old films with lanterns, often at night.",
        "Red, red, red: a cover all in red.",
    ],
)
def test_terse_clumsy_and_ordinary_answers_are_usable(text: str) -> None:
    assert find_fault(text, PREFERENCE) is None


def test_repeating_the_instructions_is_an_echo_but_repeating_the_data_is_not() -> None:
    instructions = PREFERENCE.text.splitlines()[-1]
    assert find_fault(instructions, PREFERENCE) == "prompt_echo"
    long = "a calm film with a red lantern that two sisters carry through the old town at night"
    quoting = templates.render(
        "preference_first", {"summaries": [long], "words": 9}, item_type="film"
    )
    assert find_fault(f"{OPENING} {long}.", quoting) is None


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt((Message("user", (TextPart(text),)),)) for text in texts]


def test_a_prompt_with_an_unusable_answer_is_retried_with_an_instruction() -> None:
    backend = MockBackend({"plain English": "A calm film.", "bad": "", "": "A loud film."})
    found = dict(generate_checked(backend, prompts("good", "bad")))
    assert found[0].completion.text == "A loud film."
    assert (found[0].n_retries, found[0].flags) == (0, ())
    assert found[1].completion.text == "A calm film."
    assert (found[1].n_retries, found[1].flags) == (1, ("retried",))
    assert [prompt.text[:3] for prompt in backend.history] == ["goo", "bad", "bad"]


def test_a_prompt_is_retried_at_most_twice() -> None:
    backend = MockBackend({"bad": "rose " * 50, "": "A film."})
    found = dict(generate_checked(backend, prompts("bad", "good", "bad too")))
    assert sorted(found) == [0, 1, 2]
    assert found[0].completion.error is not None
    assert "unusable (repetition_loop): 'rose rose" in found[0].completion.error
    assert (found[0].n_retries, found[0].flags) == (2, ("repetition_loop",))
    assert found[0].completion.text == ""
    texts = [prompt.text for prompt in backend.history]
    assert len(texts) == 7
    assert len(set(texts)) == 7


def test_thoughts_are_removed_before_the_check() -> None:
    backend = MockBackend(["<think>\nI'm sorry, a lantern.\n</think>\n\nA calm film."])
    ((_, found),) = generate_checked(backend, prompts("x"))
    assert (found.completion.text, found.flags) == ("A calm film.", ())


def test_an_unfinished_thought_counts_as_empty_and_is_retried() -> None:
    backend = MockBackend({"plain English": "A calm film.", "bad": "<think>A lantern, so"})
    ((_, found),) = generate_checked(backend, prompts("bad"))
    assert (found.completion.text, found.flags) == ("A calm film.", ("retried",))
    ((_, found),) = generate_checked(MockBackend(["<think>A lantern"]), prompts("bad"))
    assert (found.completion.text, found.flags) == ("", ("empty",))
    assert "thoughts did not end within 2 tokens; turn them off" in str(found.completion.error)


def test_a_failure_of_the_backend_is_not_retried() -> None:
    backend = MockBackend({"known": "A film."})
    found = dict(generate_checked(backend, prompts("lost", "known")))
    assert "no answer to 'lost'" in str(found[0].completion.error)
    assert (found[0].fault, found[0].flags) == (None, ())
    assert len(backend.history) == 2


def test_without_retries_the_fault_is_returned_immediately() -> None:
    ((_, found),) = generate_checked(MockBackend([""]), prompts("x"), max_retries=0)
    assert found.fault == "empty"


def test_docstring_examples() -> None:
    assert doctest.testmod(output_checks).failed == 0


def test_the_language_of_the_setting_is_required_and_requested_again() -> None:
    russian = "Это спокойный фильм о красном фонаре"
    backend = MockBackend(answers=["A calm film with a red lantern.", russian])
    prompt = Prompt((Message("user", (TextPart("Describe it."),)),))
    ((_, checked),) = generate_checked(backend, [prompt], language="Russian")
    assert checked.completion.text == russian
    assert checked.flags == ("retried",)
    assert backend.history[1].text.endswith("Answer in plain Russian sentences, in your "
                                                    "own words, and then stop.")  # fmt: skip
    assert find_fault(russian) == "language"
    assert find_fault(russian, language="Russian") is None
