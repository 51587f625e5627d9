"""Plots: small, deterministic SVG that follows the theme and escapes data."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mllm_msr.evaluation.report import plots

ROWS = {
    "Ours": {"uniform": (0.8, 0.7, 0.9), "popularity": (0.6, 0.5, 0.7)},
    "<b>$x_1$</b>": {"uniform": (0.5, 0.4, 0.6)},
}


def intervals(chance):
    kinds = ["uniform", "popularity"]
    return plots.intervals(ROWS, label="AUC", kinds=kinds, chance=chance, main="Ours")


FIGURES = {
    "intervals": lambda: intervals(chance=[0.5]),
    "curves": lambda: plots.curves(
        {"Ours": [0.2, 0.5], "Theirs": [0.1, 0.4]},
        ks=[1, 5],
        main="Ours",
        chance=[0.05, 0.24],
        label="share of users",
    ),
    "histogram": lambda: plots.score_histogram({"positives": [0, 1.0], "negatives": [0.5, 0.5]}),
    "reliability": lambda: plots.reliability_diagram(
        {
            "as scored": [{"predicted": 0.1, "observed": 0.2, "weight": 0.5}],
            "calibrated": [{"predicted": 0.2, "observed": 0.2, "weight": 0.5}],
        }
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_well_formed_small_and_follows_the_theme(name):
    svg = FIGURES[name]()
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox")
    assert root.get("aria-label")
    assert len(svg) < 40_000
    assert "var(--accent)" in svg
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", svg)
    assert "http" not in svg


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_deterministic(name):
    assert FIGURES[name]() == FIGURES[name]()


def test_text_is_kept_as_escaped_text():
    svg = FIGURES["intervals"]()
    assert "&lt;b&gt;$x_1$&lt;/b&gt;" in svg
    assert "<b>" not in svg
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert "Ours" in texts
    assert "popularity" in texts


def test_chance_is_drawn_as_a_line():
    with_line = intervals(chance=[0.5])
    without = intervals(chance=[])
    assert with_line.count("stroke-dasharray") == without.count("stroke-dasharray") + 1


@pytest.mark.parametrize("name", FIGURES)
def test_every_mark_shows_its_values_on_hover(name):
    root = ElementTree.fromstring(FIGURES[name]())
    marks = root.findall(".//g[@class='hover']")
    assert marks
    assert all(re.search(r"\d", mark.findtext("title", "")) for mark in marks)


def test_intervals_show_model_kind_and_values_on_hover():
    svg = intervals(chance=[])
    assert "<title>Ours, uniform: AUC 0.800 (0.700 to 0.900)</title>" in svg
    assert "<title>&lt;b&gt;$x_1$&lt;/b&gt;, uniform" in svg


def test_ids_are_unique_on_a_page_with_all_figures():
    page = "".join(figure() for figure in FIGURES.values())
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 3
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_series_differ_in_the_shape_of_their_marks():
    svg = FIGURES["curves"]()
    shapes = set(re.findall(r'<path id="[^"]*" d="([^"]*)"', svg))
    assert len(shapes) >= 3  # a circle, a diamond, and the marks of the axes


def test_long_names_are_shortened_but_complete_on_hover():
    name = "a-model-with-a-very-long-name"
    svg = plots.intervals(
        {name: {"uniform": (0.5, 0.4, 0.6)}}, label="AUC", kinds=["uniform"], chance=[], main=name
    )
    assert f"<title>{name}, uniform" in svg
    assert ">a-model-with-a-ve…</text>" in svg
