"""YAML as a source of settings: numbers, shared values and limits."""

from __future__ import annotations

import pytest
import yaml

from mllm_msr.config.yaml_source import parse_yaml


def test_numbers_with_an_exponent_are_numbers() -> None:
    assert parse_yaml("a: 1e-3\nb: 1.5E+2\nc: 1.0e-4") == {"a": 1e-3, "b": 150.0, "c": 1e-4}
    assert parse_yaml("a: e5") == {"a": "e5"}


def test_values_of_an_anchor_do_not_change_together() -> None:
    content = parse_yaml("a: &x {k: [1]}\nb: *x")
    content["a"]["k"].append(2)
    assert content["b"] == {"k": [1]}


def test_a_text_that_is_parsed_again_has_values_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: {k: [1]}\nseen: once"
    first = parse_yaml(text)
    first["a"]["k"].append(2)
    monkeypatch.delattr(yaml, "load")  # it is not parsed twice
    assert parse_yaml(text) == {"a": {"k": [1]}, "seen": "once"}


def test_content_that_grows_or_contains_itself_is_rejected() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 9))
    with pytest.raises(yaml.YAMLError, match="too many values"):
        parse_yaml(f"l0: &l0 [1]\n{levels}")
    with pytest.raises(yaml.YAMLError, match="contains itself"):
        parse_yaml("a: &a [*a]")


def test_content_that_is_nested_too_deeply_is_rejected() -> None:
    for text in ("[" * 20_000, "a: " + "{a: " * 5_000):
        with pytest.raises(yaml.YAMLError, match="nested too deeply"):
            parse_yaml(text)
