"""Design tokens: light and dark define the same colors, and text is readable on its background."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import pytest

TOKENS = (files("mllm_msr") / "_style" / "tokens.css").read_text(encoding="utf-8")
LIGHT_TEXT, DARK_TEXT = TOKENS.split("@media screen and (prefers-color-scheme: dark)")
SURFACES = ("paper", "card", "accent-soft", "second-soft", "warn-soft")

# WCAG 2.2, success criterion 1.4.3: contrast of text.
READABLE = 4.5

TEXT_ON = [
    *itertools.product(("ink", "muted"), SURFACES),
    *itertools.product(("accent", "second", "third", "warn"), ("paper", "card")),
    ("accent", "accent-soft"),
    ("second", "second-soft"),
    ("warn", "warn-soft"),
    ("on-accent", "accent"),
    ("hit-ink", "hit"),
]


def colors(text):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text))


LIGHT, DARK = colors(LIGHT_TEXT), colors(DARK_TEXT)


def luminance(color):
    """Return the relative luminance of a color, as defined by WCAG 2.2."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(c * weight for c, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_both_schemes_define_the_same_colors():
    assert sorted(LIGHT) == sorted(DARK)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "background"), TEXT_ON)
def test_text_is_readable_on_its_background(scheme, text, background):
    found = {"light": LIGHT, "dark": DARK}[scheme]
    assert contrast(found[text], found[background]) >= READABLE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_two_series_of_a_chart_differ_in_gray(scheme):
    found = {"light": LIGHT, "dark": DARK}[scheme]
    assert contrast(found["accent"], found["second"]) >= 1.4
