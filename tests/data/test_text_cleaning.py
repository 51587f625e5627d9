"""Cleaning of titles and texts: markup, entities, invisible characters, normal form, and time."""

import html
import time
import unicodedata

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mllm_msr.data.text_cleaning import clean_items, clean_text
from mllm_msr.demo_model.language import text, title
from mllm_msr.demo_model.world import make_world

FLAG_OF_ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"

# Pieces from which markup, entities and hostile text can be built.
MARKUP = "<b> </b> <p class='x'> <!-- --> <style> </style> <![CDATA[ ]]>"
ENTITIES = "&amp; &lt; &#60; &#x26; amp;"
CHARACTERS = "<>&;#/!-[]\"'=x1 aé\u0301\u200d\u200c\ufe0f👩क\u202e\x00\ud800\U000e0061\u3000\u212b"
PIECES = st.sampled_from([*MARKUP.split(), *ENTITIES.split(), *CHARACTERS])
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


@pytest.mark.parametrize(
    "text",
    [
        "Story, A (1995)",
        "8 < 9 bits",
        "I <3 U & you",
        "a<b then c>d",
        "<Untitled>",
        "vector<int>, Map<K, V>",
        "x <![n00b y",
        "AT&T, R&D; Q&A; a?b=1&copy=2&lt=3",
        "C&#; 100 % # &",
        "café Ångström 東京 한국어 русский עברית العربية",
        "می\u200cخواهم",
        "क्\u200dष",
        "👩\u200d⚕️ and ❤️\u200d🔥",
        FLAG_OF_ENGLAND,
        "",
    ],
)
def test_clean_text_stays(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp; Jerry <b>", "Tom & Jerry"),
        ("Rock &amp;amp;amp; Roll", "Rock & Roll"),
        ("Don&amp;#39;t &#x27;x&#x27; &#39s", "Don't 'x' 's"),
        ("Tom &amp Jerry &lt3 &quot", 'Tom & Jerry &lt3 "'),
        ("&eacute;&nbsp;&shy;&unknown;", "é &unknown;"),
        ("&#150; &#0000039;", "– '"),
        ("&lt;p&gt;Soft&lt;/p&gt; 5 &lt; 6", "Soft 5 < 6"),
        ("&#38;lt;b&#38;gt;x", "x"),
    ],
)
def test_entities_are_replaced_until_none_is_left(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Jump.</p><p>Run.</p>One<br/>two", "Jump. Run. One two"),
        ("H<sub>2</sub>O <SPAN STYLE='a>b'>hot</SPAN>", "H2O hot"),
        ('<a href="x"class=y>in</a> <input disabled>', "in"),
        ("a<!-- hidden <b> -->b<!-->c", "abc"),
        ("a<!-- open <i>b</i>", "a<!-- open b"),
        ("a<script>if (x<y) f()</script>b <STYLE>p{}</style >c", "a b c"),
        ("Red shoes<style>p { margin: 0 }", "Red shoes p { margin: 0 }"),
        ("Red shoes<script>", "Red shoes"),
        ("<![CDATA[1 < 2]]> <!DOCTYPE html><o:p></o:p><?xml version='1'?>x", "1 < 2 x"),
        ("<x-card kind='a'>Text</x-card>", "Text</x-card>"),
        ("<a href='open>text stays", "<a href='open>text stays"),
        ("<<b></b>i>x", "x"),
    ],
)
def test_complete_markup_is_removed(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x00b\x07c\x9fd\ud800", "abcd"),
        ("\u202egnp.exe\u202c \u2066x\u2069 \u200fy", "gnp.exe x y"),
        ("a\u200bb\ufeffc\u2060d\u200de\u200cf\xad", "abcdef"),
        ("Shoes\U000e0069\U000e0067\U000e006e\U000e007f", "Shoes"),
        ("x\ufe0f\ufe0e\U000e0101y \ufe0f", "x\ufe0fy"),
        (" two\n\twords\u2028\xa0\u3000here\x1f ", "two words here"),
        ("cafe\u0301 \u212bngstro\u0308m \u1112\u1161\u11ab", "café Ångström 한"),
    ],
)
def test_invisible_characters_and_normal_forms(text: str, expected: str) -> None:
    assert clean_text(text) == expected


def test_long_runs_of_combining_marks_are_cut() -> None:
    cleaned = clean_text("a" + "\u0315\u0300" * 100)
    assert len(cleaned) == 30  # 30 marks, one of them composed with the letter
    assert cleaned.startswith("à")


@given(TEXTS)
@example("&" + "<<b></b>b>" * 20)
@example("<" * 10 + "<b></b>" + "b>" * 10)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split())
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in cleaned)
    cleaned.encode()


@given(TEXTS, st.sampled_from(["NFC", "NFD"]), st.integers(1, 3))
def test_escaping_and_normal_forms_make_no_difference(text: str, form: str, times: int) -> None:
    """Compare clean text with the same text as other programs write it."""
    cleaned = clean_text(text)
    if "<" in cleaned or "&" in cleaned:
        return  # unescaping such text can make new markup
    written = unicodedata.normalize(form, cleaned)  # type: ignore[arg-type]
    for _ in range(times):
        written = html.escape(written)
    assert clean_text(f"<p>{written}</p>\r\n") == cleaned


@pytest.mark.parametrize(
    "unit",
    [
        *("[", "<", "<!--", "<![CDATA[", "<script>", "</script", "<!doctype ", "<<b></b>b>"),
        *("<a x='", "<a x=\" y='", "<a b=c ", "&amp;", "&#", "&#x26;#38;"),
        *("a\u0315\u0300", "\u0315\u0300", "\u200d"),
    ],
)
@pytest.mark.parametrize("start", ["", "&", "<a href='"])
def test_the_time_is_linear(unit: str, start: str) -> None:
    text = start + unit * (100_000 // len(unit))
    begin = time.process_time()
    clean_text(text)
    # A pass takes milliseconds; quadratic time would be minutes.
    assert time.process_time() - begin < 5


def test_numbers_of_any_length_are_accepted() -> None:
    digits = "1" * 5000
    assert (
        clean_text(f"&#{digits}; &#{'0' * 5000}39; &#x{digits};") == f"&#{digits}; ' &#x{digits};"
    )


def test_the_demo_is_clean() -> None:
    for item in make_world(0, n_items=200, n_users=1).items:
        assert clean_text(title(item)) == title(item)
        assert clean_text(text(item)) == text(item)


def test_missing_titles_become_empty() -> None:
    frame = pl.DataFrame(
        {"item_id": ["1", "2"], "title": ["&lt;i&gt;x", None], "text": [None, " a"]}
    )
    assert clean_items(frame).rows() == [("1", "x", ""), ("2", "", "a")]
    assert clean_items(frame.clear()).schema["title"] == pl.String
