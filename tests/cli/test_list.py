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


def test_models_are_listed_with_their_facts_in_80_columns(invoke) -> None:
    lines = invoke("list", "models").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["model", "size", "license", "context", "vLLM", "use"]
    row = next(line for line in lines if line.startswith("qwen3-vl-2b"))
    assert row.split()[1:4] == ["2B", "Apache-2.0", "yes"]
    models = json.loads(invoke("list", "models", "--json").stdout)["models"]
    found = next(model for model in models if model["name"] == "gemma-4-e2b")
    assert found["checkpoint"] == "google/gemma-4-E2B-it"
    assert (found["license"], found["vllm"]) == (None, None)


def test_the_error_about_an_unknown_kind_lists_all_kinds(fail) -> None:
    with pytest.raises(UsageError, match=r"Unknown kind 'runs'\. Available: .*models"):
        fail("list", "runs")
