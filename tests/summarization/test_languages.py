"""Languages of answers: scripts, common words, and sample texts."""

from __future__ import annotations

import doctest
import re

import pytest

from mllm_msr.summarization import languages
from mllm_msr.summarization.languages import is_other_language, sample_text

TEXTS = {
    "English": "The user appears to have a preference for calm films with a red lantern in them, "
    "and for the quiet stories of an old town.",
    "French": "Une histoire calme dans laquelle une lanterne rouge guide les enfants vers leur "
    "petite maison pendant que leurs parents dorment encore",
    "German": "Der Nutzer mag vor allem ruhige Filme mit einer roten Laterne, in denen Kinder "
    "durch alte Dörfer reisen und am Ende nach Hause finden.",
    "Dutch": "De gebruiker is dol op rustige films met een rode lantaarn, waarin kinderen door "
    "oude dorpen reizen en aan het einde weer thuis komen.",
    "Russian": "Пользователь любит спокойные фильмы с красным фонарём, например The Lantern.",
    "Japanese": "赤いランタンが出てくる静かな映画が好きです。",
    "Chinese": "一部关于红灯笼的安静电影",
    "Korean": "빨간 등불이 나오는 조용한 영화를 좋아합니다.",
}


def is_rejected(text: str, language: str) -> bool:
    return is_other_language(text, re.findall(r"[^\W_]+", text.lower()), language)


@pytest.mark.parametrize("language", TEXTS)
def test_answers_in_the_language_are_accepted(language: str) -> None:
    assert not is_rejected(TEXTS[language], language)


@pytest.mark.parametrize(
    ("written", "language"),
    [
        ("English", "German"),
        ("English", "Dutch"),
        ("English", "Russian"),
        ("English", "Simplified Chinese"),
        ("French", "English"),
        ("Russian", "English"),
        ("Russian", "Brazilian Portuguese"),
        ("German", "Korean"),
        ("Korean", "Japanese"),
    ],
)
def test_answers_in_other_languages_are_rejected(written: str, language: str) -> None:
    assert is_rejected(TEXTS[written], language)


def test_languages_that_are_not_listed_are_not_checked() -> None:
    assert not any(is_rejected(text, "Esperanto") for text in TEXTS.values())


@pytest.mark.parametrize("language", [*TEXTS, "Esperanto", "Hindi", "Thai"])
def test_sample_texts_pass_the_check_and_keep_their_length(language: str) -> None:
    sample = sample_text(TEXTS["English"].lower(), language)
    assert not is_rejected(sample, language)
    assert len(sample.split()) == len(TEXTS["English"].split())


def test_the_examples_in_the_documentation_are_true() -> None:
    assert doctest.testmod(languages).failed == 0
