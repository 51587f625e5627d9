"""`list`: prints the names that settings and commands accept."""

from __future__ import annotations

import json

import pytest

from mllm_msr.cli.list import KINDS
from mllm_msr.errors import UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("datasets", "movielens"),
        ("backends", "openai"),
        ("baselines", "sasrec"),
        ("metrics", "ndcg"),
        ("presets", "paper"),
        ("experiments", "figure4"),
        ("stages", "summarize"),
        ("settings", "retrieve"),
    ],
)
def test_names_are_listed(invoke, kind: str, name: str) -> None:
    assert name in json.loads(invoke("list", kind, "--json").stdout)[kind]
    rows = [line.split(maxsplit=1) for line in invoke("list", kind).stdout.splitlines()]
    (meaning,) = [row[1] for row in rows if row[0] == name]
    assert len(meaning.split()) > 2


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


def test_without_an_argument_the_kinds_are_listed(invoke) -> None:
    lines = invoke("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(KINDS)
    assert json.loads(invoke("list", "--json").stdout) == {"kinds": list(KINDS)}
    for kind in KINDS:
        assert invoke("list", kind).exit_code == 0


def test_the_settings_of_a_group_have_type_default_and_meaning(invoke) -> None:
    lines = invoke("list", "settings", "train").stdout.splitlines()
    assert lines[0].split() == ["setting", "default", "meaning"]
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("train.rank "))
    assert row.split()[1:4] == ["8", "rank", "of"]
    found = json.loads(invoke("list", "settings", "train", "--json").stdout)["settings"]
    assert {each["key"].partition(".")[0] for each in found} == {"train"}


def test_settings_without_a_section_are_in_the_general_group(invoke) -> None:
    found = json.loads(invoke("list", "settings", "general", "--json").stdout)["settings"]
    assert [each["key"] for each in found] == ["preset", "dataset", "item_type"]


def test_the_values_of_a_preset_can_be_listed(invoke) -> None:
    lines = invoke("list", "settings", "train", "--preset", "demo").stdout.splitlines()
    assert lines[0].split() == ["setting", "value", "meaning"]
    row = next(line for line in lines if line.startswith("train.rank "))
    assert row.split()[1] == "16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modles"], "Unknown kind 'modles'. Did you mean 'models'? Available: datasets,"),
        (["datasets", "flies"], "Unknown dataset 'flies'. Did you mean 'files'?"),
        (["settings", "trian"], "Unknown group 'trian'. Did you mean 'train'?"),
        (["settings", "train", "--preset", "dmo"], "Unknown preset 'dmo'. Did you mean 'demo'?"),
    ],
)
def test_a_misspelled_name_gets_a_suggestion(fail, arguments: list[str], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        fail("list", *arguments)
    assert str(caught.value).startswith(message)


def test_the_arguments_of_a_dataset_are_listed(invoke) -> None:
    lines = invoke("list", "datasets", "files").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["data.path", "required", "Folder", "with", "the", "files."]
    hint = invoke("list", "settings", "data").stdout.splitlines()[-1]
    assert hint == "Further settings: mllm-msr list datasets NAME"


@pytest.mark.parametrize("arguments", [("models", "train"), ("datasets", "--preset", "demo")])
def test_only_settings_and_plugins_with_settings_take_a_name(fail, arguments) -> None:
    with pytest.raises(UsageError, match="only for settings"):
        fail("list", *arguments)
