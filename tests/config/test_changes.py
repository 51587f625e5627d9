"""Changed settings: the difference to the preset, and arguments that repeat it."""

from __future__ import annotations

import shlex

import pytest

from mllm_msr.config.changes import as_arguments, changed_settings
from mllm_msr.config.loading import load_settings, preset_names


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_has_no_changes_but_the_required_path(preset):
    required = {} if preset in {"default", "demo"} else {"data.path": "/data"}
    settings = load_settings(preset, required, environment={})
    assert changed_settings(settings) == required


def test_changes_are_named_by_their_key_in_the_order_of_the_settings():
    settings = load_settings("demo", ["train.rank=4", "item_type=video"], environment={})
    assert list(changed_settings(settings).items()) == [("item_type", "video"), ("train.rank", 4)]


def test_a_value_of_the_preset_that_was_reset_is_a_change():
    default = load_settings(None, environment={}).train.rank
    settings = load_settings("demo", [f"train.rank={default}"], environment={})
    assert changed_settings(settings) == {"train.rank": default}


def test_environment_variables_are_changes():
    settings = load_settings("demo", environment={"MLLM_MSR__TRAIN__RANK": "3"})
    assert changed_settings(settings) == {"train.rank": 3}


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.rank=4", "data.run_folds=[0, 1]", "score.baselines=[sasrec, item_knn]"],
        ["item_type=board game", "report.case_studies=0", "train.enabled=false"],
        ["dataset=files", "data.path=/data/my shop", "data.separator=;", "data.user_column=yes"],
        ["dataset=files", "data.path=/d", "data.time_column=null", "data.title_column=1e5"],
        ["dataset=files", "data.path=/d", "data.separator='#'", "data.time_format='%d/%m/%Y'"],
        ["baselines.sasrec.hidden=64", "summarize.model.backend=mock", "plan.budget_hours=1.5"],
    ],
    ids=["numbers", "words", "own-files", "odd-columns", "quoted", "nested"],
)
def test_the_arguments_repeat_the_settings(overrides):
    settings = load_settings("demo", overrides, environment={})
    line = " ".join(as_arguments(changed_settings(settings)))
    assert load_settings("demo", shlex.split(line), environment={}) == settings


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ("video", "a=video"),
        ("no", "'a=\"no\"'"),
        ("it's", """'a="it'"'"'s"'"""),
        ("12", "'a=\"12\"'"),
        ("", "'a=\"\"'"),
        (None, "a=null"),
        (True, "a=true"),
        ({}, "'a={}'"),
    ],
)
def test_values_are_quoted_for_yaml_and_for_the_shell(value, argument):
    assert as_arguments({"a": value}) == [argument]
