"""Tests of the sentences about optimizations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.models.loading import load_model
from mllm_msr.models.optimizations import describe_optimizations

Load = Callable[[str], Any]


@pytest.fixture
def load(tiny_checkpoint: Callable[[str], Path]) -> Load:
    return lambda family: load_model(str(tiny_checkpoint(family)), device="cpu").model


def test_all_optimizations_apply_to_smolvlm(load: Load) -> None:
    assert describe_optimizations(load("smolvlm")) == (
        "Scoring computes the common prefix of prompts once.",
        "Writing uses continuous batching and prompt lookup.",
        "Training computes the common prefix of prompts once.",
        "Scoring and training compute the last layer for one token of each prompt.",
    )


def test_reasons_are_stated(load: Load) -> None:
    scoring, writing, training, _ = describe_optimizations(load("lfm2"))
    assert scoring == "Scoring computes the common prefix of prompts once."
    assert writing == (
        "Writing uses static batches without prompt lookup: its recurrent layers cannot remove the "
        "states of padding and of rejected drafts."
    )
    assert training.startswith("Training computes every prompt as a whole: its recurrent layers")
    scoring, *_, last = describe_optimizations(load("ovis2"))
    assert scoring == (
        "Scoring computes every prompt as a whole, with cached image features: no test covers the "
        "model type ovis2."
    )
    assert last == (
        "Scoring and training compute the last layer for all tokens: no test covers its last layer."
    )


def test_limits_of_training_are_stated(load: Load) -> None:
    assert describe_optimizations(load("gemma3"))[2] == (
        "Training computes the common prefix of prompts once, if prompts are not longer than the "
        "sliding window of 64 tokens."
    )
    model = load("llama")
    model.gradient_checkpointing_enable()
    assert describe_optimizations(model)[2] == (
        "Training computes every prompt as a whole: gradient checkpointing keeps no keys and "
        "values."
    )
