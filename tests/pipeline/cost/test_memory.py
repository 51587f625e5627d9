"""Peak memory of stages in the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.models.loading import load_config
from mllm_msr.models.memory import empty_model, weight_bytes
from mllm_msr.pipeline.cost.memory import with_memory
from mllm_msr.pipeline.cost.report import CostReport, StageCost

Checkpoint = Callable[[str], Path]
STAGES = [
    StageCost(name, "", longest_prompt=100)
    for name in ("summarize", "infer", "train/0", "score/mllm_msr")
]


@pytest.fixture
def peaks(tiny_checkpoint: Checkpoint) -> Callable[..., dict[str, int]]:
    folder = tiny_checkpoint("qwen3_vl")

    def compute(*overrides: str, length: int = 100) -> dict[str, int]:
        model = ["model.backend=huggingface", f"model.checkpoint={folder}", "model.device=cpu"]
        settings = load_settings("default", [*model, *overrides], environment={})
        stages = [replace(stage, longest_prompt=length) for stage in STAGES]
        found = with_memory(CostReport(tuple(stages), "", ""), settings)
        return {stage.stage: stage.memory_bytes or 0 for stage in found.stages}

    return compute


def test_all_stages_take_more_than_the_weights(
    peaks: Callable[..., dict[str, int]], tiny_checkpoint: Checkpoint
) -> None:
    weights = weight_bytes(empty_model(load_config(str(tiny_checkpoint("qwen3_vl")))), "float32")
    found = peaks("train.precision=fp32")
    assert all(peak > weights for peak in found.values())
    # Answers of preferences have more tokens than scores.
    assert found["score/mllm_msr"] < found["infer"]


def test_settings_that_save_memory_lower_the_estimate(
    peaks: Callable[..., dict[str, int]],
) -> None:
    before = peaks()
    checkpointing = peaks("train.gradient_checkpointing=true")
    assert checkpointing["train/0"] < before["train/0"]
    assert checkpointing["infer"] == before["infer"]
    smaller = peaks("model.batch_size=2", "train.batch_size=2")
    assert all(smaller[stage] < before[stage] for stage in before)
    assert peaks("model.max_batch_tokens=500")["infer"] < before["infer"]
    full = peaks("train.method=full")["train/0"]
    upper = peaks("train.method=frozen-lower-layers", "train.upper_layers=1")["train/0"]
    assert full > upper > before["train/0"]
    assert peaks("train.rank=16")["train/0"] > before["train/0"]
    assert peaks("model.dtype=bfloat16")["infer"] < before["infer"]


def test_other_models_have_no_estimate(tmp_path: Path) -> None:
    for model in (
        ["model.backend=openai", "model.checkpoint=x", "model.url=http://127.0.0.1:9/v1"],
        ["model.backend=mock"],
        ["model.backend=huggingface", f"model.checkpoint={tmp_path}"],
    ):
        settings = load_settings("default", model, environment={})
        found = with_memory(CostReport(tuple(STAGES), "", ""), settings)
        assert {stage.memory_bytes for stage in found.stages} == {None}


def test_the_demo_model_has_an_estimate() -> None:
    settings = load_settings("demo", ["model.device=cpu"], environment={})
    stages = (StageCost("infer", "demo", longest_prompt=500),)
    (stage,) = with_memory(CostReport(stages, "", ""), settings).stages
    assert stage.memory_bytes is not None
    assert 0.3e9 < stage.memory_bytes < 3e9
