"""Sentences about settings that do not match the schema."""

from __future__ import annotations

import pydantic
import pytest

from mllm_msr.config.problems import describe_errors, did_you_mean, rule
from mllm_msr.config.settings import TrainSettings


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


def test_only_close_names_are_suggested() -> None:
    assert did_you_mean("sed", ["seed", "rank"]) == " Did you mean 'seed'?"
    assert did_you_mean("xyz", ["seed", "rank"]) == ""
