"""Trials of models: what works is described, what does not is broken, and the rest still runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.backends._local import LocalBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend
from mllm_msr.pipeline import model_trial
from mllm_msr.pipeline.doctor import Finding
from mllm_msr.pipeline.model_trial import try_model

Checkpoint = Callable[[str], Path]


def findings(backend: LocalBackend) -> dict[str, Finding]:
    found = {each.name.removeprefix("model: "): each for each in try_model("model", backend)}
    backend.close()
    return found


def test_every_use_of_a_model_is_described(tiny_checkpoint: Checkpoint) -> None:
    found = findings(HuggingFaceBackend(str(tiny_checkpoint("qwen3_5")), device="cpu"))
    assert all(each.state == "ok" for each in found.values())
    assert "Qwen3_5ForConditionalGeneration (qwen3_5, a tested type)" in found["class"].detail
    assert "GiB of weights in float32 on cpu" in found["class"].detail
    assert found["template"].detail.endswith("enable_thinking=False")
    assert found["image"].detail.startswith("15 tokens for an image of 720 x 405 pixels")
    assert "tokens of the answers: yes = " in found["image"].detail
    assert found["answer"].detail.startswith("24 tokens in ")
    assert found["batches"].detail == "a batch gives the results of single prompts"
    assert "static batches without prompt lookup: its rec" in found["optimizations"].detail
    assert "in_proj_qkv" in found["training"].detail
    assert "in_proj_a" not in found["training"].detail
    assert found["training"].detail.endswith("features of images cached")


def test_a_text_model_has_no_image(tiny_checkpoint: Checkpoint) -> None:
    found = findings(HuggingFaceBackend(str(tiny_checkpoint("llama")), device="cpu"))
    assert "image" not in found
    assert "images" not in found["training"].detail
    assert found["optimizations"].detail.startswith(
        "Scoring computes the common prefix of prompts once. Writing uses continuous batching"
    )


def test_a_model_that_cannot_be_loaded_has_one_finding(tiny_checkpoint: Checkpoint) -> None:
    found = findings(HuggingFaceBackend(str(tiny_checkpoint("paligemma")), device="cpu"))
    assert list(found) == ["load"]
    assert found["load"].state == "broken"
    assert "'paligemma' are not supported" in found["load"].detail


def test_a_use_that_fails_is_broken_and_the_others_are_tried(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("no such layer")

    monkeypatch.setattr(model_trial, "add_lora", fail)
    backend = HuggingFaceBackend(str(tiny_checkpoint("llama")), device="cpu")
    backend.load().model.generate = fail
    found = findings(backend)
    assert found["batches"].detail.startswith("prompts run one by one: 'no such layer'")
    assert (found["training"].state, found["training"].detail) == ("broken", "'no such layer'")
    assert found["prompt"].state == "ok"


def test_models_that_run_elsewhere_are_not_tried() -> None:
    assert list(try_model("model", MockBackend())) == []
