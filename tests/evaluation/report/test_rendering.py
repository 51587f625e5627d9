"""Filters and escaping of the templates."""

from __future__ import annotations

import jinja2
import pytest
from PIL import Image

from mllm_msr.evaluation.report.rendering import duration, environment, source, style_sheet


def rendered(text, **values):
    return environment({"sasrec": "SASRec"}).from_string(text).render(values)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_models_are_shown_by_label_or_name():
    assert rendered("{{ 'sasrec' | label }}, {{ 'mine' | label }}") == "SASRec, mine"
    assert rendered("{{ 'random' | label }}") == "Random order"


def test_templates_are_compiled_once_for_the_same_labels():
    pages = [environment({"sasrec": label}).get_template("report.md.jinja") for label in "ABA"]
    assert pages[0] is pages[2]
    assert pages[0] is not pages[1]


def test_metrics_are_shown_by_label():
    text = "{% for name in names %}{{ name | metric }} {% endfor %}"
    names = ["auc", "pooled_auc", "ndcg@5", "theirs@5"]
    assert rendered(text, names=names) == "AUC Pooled AUC NDCG@5 theirs@5 "


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("_a_", r"\_a\_"),
        ("max_minutes", "max_minutes"),
        ("__init__", r"\_\_init\_\_"),
        ("*b* `c`", r"\*b\* \`c\`"),
        ("<i>#!\\", r"\<i\>\#\!\\"),
    ],
)
def test_markup_is_escaped_but_not_underscores_inside_words(value, text):
    assert environment({}).filters["cell"](value) == text


def test_cells_of_markdown_tables_contain_no_markup():
    assert rendered("{{ value | cell }}", value="a | b\n[c](d)") == r"a \| b \[c\](d)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ 0.256 | percent }}", "26%"),
        ("{{ 1234.0 | count }}", "1,234"),
        ("{{ 0.12345 | count }}", "0.123"),
        ("{{ none | decimals }}", "–"),
        ("{{ -0.5 | signed }}", "−0.500"),
        ("{{ -0.0001 | signed }}", "+0.000"),
        ("{{ 0.0001 | p_value }}", "&lt; 0.001"),
    ],
)
def test_numbers(text, expected):
    assert rendered(text) == expected


def test_unreadable_images_have_no_thumbnail(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"<html>")
    paths = {name: tmp_path / f"{name}.png" for name in ("good", "bad", "missing")}
    text = "{{ good | thumbnail(16) }},{{ bad | thumbnail(16) }},{{ missing | thumbnail(16) }}"
    good, *others = rendered(text, **paths).rsplit(",", 2)
    assert good.startswith("data:image/")
    assert others == ["", ""]


def test_templates_are_found_and_undefined_variables_are_errors():
    assert source("report.css")
    assert source("absent.css") is None
    with pytest.raises(jinja2.UndefinedError):
        rendered("{{ absent }}")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("prepare", "prepare"),
        ("train/0", "train fold 0"),
        ("score/sasrec", "score SASRec"),
        ("score/sasrec@2", "score SASRec seed 2"),
    ],
)
def test_stages_are_shown_with_their_model_or_fold(stage, words):
    assert rendered("{{ stage | stage }}", stage=stage) == words


def test_the_style_sheet_begins_with_the_shared_tokens_and_ends_with_the_rules_for_paper():
    css = style_sheet()
    assert css.index("--accent:") < css.index(".case-study") < css.index("@page")
