"""Sentences about settings that do not match the schema."""

from __future__ import annotations

import pydantic
import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.config.problems import describe_errors, did_you_mean, displayed, rule
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import SettingsError


def test_each_problem_is_one_sentence_with_the_full_name() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        TrainSettings.model_validate({"rank": 0, "devices": "many", "sed": 1})
    known = [f"train.{name}" for name in TrainSettings.model_fields]
    assert set(describe_errors(caught.value, TrainSettings, "train.", known)) == {
        "train.rank=0: must be greater than 0.",
        "train.devices='many': must be an integer or 'auto'.",
        "Unknown setting 'train.sed'. Did you mean 'train.seed'?",
    }


def test_alternatives_are_joined_without_repetition() -> None:
    messages = ["Input should be a valid list", "Input should be a valid list"]
    assert rule(messages) == "must be a list."
    assert rule(["Set train.precision to bf16."]) == "Set train.precision to bf16."


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("serve.variants.a=0", "serve.variants.a=0: must be a mapping"),
        ("serve.variants.a.share=0", "serve.variants.a.share=0: must be greater than 0."),
        ("serve.variants.a.size=0", "Unknown setting 'serve.variants.a.size'."),
        ("serve.variants=[1]", "serve.variants=[1]: must be a mapping."),
        ("serve.models.new=1", "serve.models.new=1: must be a path."),
        ("serve.models.a b=x", "serve.models.a b='a b': must be a text that matches '^"),
        ("serve.variants.a b.share=1", "serve.variants.a b='a b': must be a text that"),
        ("train.seed=null", "train.seed=null: must be an integer."),
        ("infer.model=true", "infer.model=true: must be a mapping"),
        ("infer.model=3", "infer.model=3: must be a mapping"),
        ("train.loggers=[csv, x]", "train.loggers='x': must be 'tensorboard'"),
    ],
)
def test_values_in_mappings_and_lists_have_the_name_of_the_setting(
    setting: str, words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides=[setting], environment={})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "value", ["[hunter2]", "{a: hunter2}", '"hunter2', "postgresql://u:hunter2: x@host/db"]
)
def test_values_that_may_contain_a_password_are_hidden(value: str) -> None:
    with pytest.raises(SettingsError, match=r"serve\.state=\*\*\*: must be") as caught:
        load_settings(environment={"MLLM_MSR__SERVE__STATE": value})
    assert "hunter2" not in str(caught.value)
    assert displayed("train.seed", "x") == "'x'"


def test_the_database_of_a_service_is_neither_saved_nor_displayed() -> None:
    settings = load_settings(overrides=["serve.state=sqlite:///hunter2"], environment={})
    assert settings.serve.state == "sqlite:///hunter2"
    assert "hunter2" not in repr(settings) + settings.model_dump_json()


def test_only_close_names_are_suggested() -> None:
    assert did_you_mean("sed", ["seed", "rank"]) == " Did you mean 'seed'?"
    assert did_you_mean("xyz", ["seed", "rank"]) == ""
