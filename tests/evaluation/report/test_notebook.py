"""Fragments for notebooks: they are self-contained, style nothing else, and escape text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mllm_msr.evaluation.report.notebook import frame, mark_phrases, render


def test_the_style_applies_only_to_the_fragment() -> None:
    page = render("results", tables=[], notes={}, report=None)
    style = page.split("<style>")[1].split("</style>")[0]
    assert "--accent" in style
    rules = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    rules = re.sub(r"@media[^{]*\{(.*?\})\s*\}", r"\1", rules, flags=re.DOTALL)
    selectors = [rule.split("{")[0].strip() for rule in rules.split("}") if "{" in rule]
    assert len(selectors) > 10
    assert all(selector.startswith(".mllm-msr") for selector in selectors)


def test_covers_are_embedded(images: list[Path]) -> None:
    item = {"rank": 1, "title": "<b>", "item_id": "v1", "score": 0.5, "matches": ["x & y"]}
    item["quoted_matches"] = "“x & y”"
    shown = [
        {
            "title": "T",
            "preference": "",
            "notes": [],
            "recommendations": [{**item, "image": image} for image in (images[0], None)],
        }
    ]
    page = render("lists", lists=shown, n_more=0, scored=True)
    assert page.count('src="data:image/jpeg;base64,') == 1
    assert page.count("no image") == 1
    assert "width:50.0%" in page
    assert "x &amp; y" in page
    assert "&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("text", "phrases", "expected"),
    [
        ("calm & sea", [], "calm &amp; sea"),
        ("Calm sea", ["calm", "calm sea"], "<mark>Calm sea</mark>"),
        ("seaside sea", ["sea"], "seaside <mark>sea</mark>"),
        ("a+b <i>", ["a+b"], "<mark>a+b</mark> &lt;i&gt;"),
    ],
)
def test_phrases_are_marked(text: str, phrases: list[str], expected: str) -> None:
    assert mark_phrases(text, phrases) == expected


def test_a_page_in_a_frame_is_escaped() -> None:
    assert 'srcdoc="&lt;p id=&quot;a&quot;&gt;"' in frame('<p id="a">')
