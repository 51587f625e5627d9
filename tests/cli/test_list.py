"""`list`: prints the names that settings and commands accept."""

from __future__ import annotations

import json

import pytest

from mllm_msr.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("datasets", "movielens"),
        ("backends", "openai"),
        ("baselines", "sasrec"),
        ("metrics", "ndcg"),
        ("presets", "paper"),
        ("experiments", "figure4"),
    ],
)
def test_names_are_listed(invoke, kind: str, name: str) -> None:
    assert name in json.loads(invoke("list", kind, "--json").stdout)[kind]
    assert name in invoke("list", kind).stdout.splitlines()


def test_the_error_about_an_unknown_kind_lists_all_kinds(fail) -> None:
    with pytest.raises(UsageError, match=r"Unknown kind 'models'\. Available: .*presets"):
        fail("list", "models")
