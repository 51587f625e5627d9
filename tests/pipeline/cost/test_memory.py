"""Peak memory of stages in the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig

from mllm_msr.config.loading import load_settings
from mllm_msr.models import cpu_runtime
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

    def compute(*overrides: str, length: int = 100, shared: int = 0) -> dict[str, int]:
        model = ["model.backend=huggingface", f"model.checkpoint={folder}", "model.device=cpu"]
        settings = load_settings("default", [*model, *overrides], environment={})
        sizes = {"longest_prompt": length, "calls": 1, "shared_tokens": shared}
        stages = [replace(stage, **sizes) for stage in STAGES]
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
    # Frozen lower layers store no results for the backward pass; with LoRA, all layers do.
    assert full > before["train/0"] > upper
    assert peaks("train.rank=16")["train/0"] > before["train/0"]
    assert peaks("model.dtype=bfloat16")["infer"] < before["infer"]


@pytest.mark.parametrize("is_native", [True, False])
def test_models_that_are_faster_in_bfloat16_need_less_memory(
    is_native: bool, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_runtime, "has_bfloat16", lambda: is_native)
    model = ["model.backend=smollm", f"model.weights={tiny_checkpoint('qwen3_vl')}"]
    report = CostReport((replace(STAGES[-1], calls=1),), "", "")

    def score(*overrides: str) -> int:
        overrides = (*model, "model.device=cpu", *overrides)
        settings = load_settings("default", overrides, environment={})
        return with_memory(report, settings).stages[0].memory_bytes or 0

    assert 0 < score("model.dtype=bfloat16") < score("model.dtype=float32")
    assert score() == score(f"model.dtype={'bfloat16' if is_native else 'float32'}")


def test_the_teacher_is_the_model_that_scores(tiny_checkpoint: Checkpoint) -> None:
    other = f"score.model={{backend: huggingface, checkpoint: {tiny_checkpoint('qwen3_vl')}}}"
    settings = load_settings("default", ["model.backend=mock", other], environment={})
    stages = (replace(STAGES[-1], stage="distill/0"), STAGES[-1])
    found = with_memory(CostReport(stages, "", ""), settings).stages
    assert found[0].memory_bytes == found[1].memory_bytes is not None


def test_training_counts_the_candidates_of_a_target_and_shared_prefixes(
    peaks: Callable[..., dict[str, int]],
) -> None:
    def train(*overrides: str, shared: int = 0) -> int:
        lists = ("train.objective=listwise", "recommend.order=user-first", "train.batch_size=4")
        return peaks(*lists, *overrides, shared=shared)["train/0"]

    one, two = train("data.train_negatives=1"), train("train.negatives_per_positive=2")
    assert one < two == train("data.train_negatives=2")
    assert two == peaks("train.batch_size=12")["train/0"]
    # Half of the tokens are computed once for several prompts.
    assert train(shared=50) < train()
    assert (
        peaks("train.method=full")["train/0"]
        > peaks("train.method=full", "train.precision=fp32")["train/0"]
    )


def test_alignment_keeps_results_but_trains_only_the_projector(
    tiny_checkpoint: Checkpoint,
) -> None:
    model = ["model.backend=huggingface", f"model.checkpoint={tiny_checkpoint('llava_next')}"]

    def peak(*overrides: str) -> int:
        settings = load_settings("default", [*model, *overrides], environment={})
        stages = (StageCost("align", "", longest_prompt=100),)
        (stage,) = with_memory(CostReport(stages, "", ""), settings).stages
        return stage.memory_bytes or 0

    assert (
        peak()
        > peak("align.batch_size=2")
        > peak("align.batch_size=2", "align.max_answer_tokens=8")
    )


# Peaks of resident memory on a CPU with bfloat16, one thread: training of SmolLM2-135M with four
# targets of three candidates. Prompts have at most 117 tokens, of which 54 are computed for another
# prompt (a made-up shop; the run with frozen lower layers was stopped early); or 223 and 95
# tokens (MovieLens). All but the first read collaborative tokens.
@pytest.mark.parametrize(
    ("method", "length", "shared", "measured_gb"),
    [
        ("full", 117, 54, 5.26),
        ("lora", 117, 54, 2.31),
        ("frozen-lower-layers", 117, 54, 3.33),
        ("full", 223, 95, 7.18),
    ],
)
def test_estimates_are_close_to_measured_peaks(
    method: str, length: int, shared: int, measured_gb: float, tmp_path: Path
) -> None:
    smollm = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    smollm |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
    LlamaConfig(**smollm, tie_word_embeddings=True).save_pretrained(tmp_path)
    settings = load_settings(
        "default",
        [
            "model.backend=huggingface",
            f"model.checkpoint={tmp_path}",
            f"train.method={method}",
            "train.rank=16",
            "train.objective=listwise",
            "train.negatives_per_positive=2",
            "train.batch_size=4",
            "recommend.order=user-first",
            "recommend.collaborative=sasrec",
        ],
        environment={},
    )
    stages = (StageCost("train/0", "", calls=9, longest_prompt=length, shared_tokens=9 * shared),)
    (stage,) = with_memory(CostReport(stages, "", ""), settings).stages
    assert (stage.memory_bytes or 0) / 1e9 == pytest.approx(measured_gb, rel=0.1)


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
