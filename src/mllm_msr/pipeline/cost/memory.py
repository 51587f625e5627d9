"""Peak memory of the stages whose model runs in this process, for `mllm-msr plan`.

The estimate needs the configuration of the checkpoint, not its weights (`models/memory.py`). It is
an upper bound for prompts that share prefixes, and does not include cached images.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Final

from mllm_msr.config.settings import Settings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import MllmMsrError
from mllm_msr.models.loading import load_config, resolve_device, resolve_dtype
from mllm_msr.models.memory import Batch, empty_model, inference_bytes, training_bytes
from mllm_msr.pipeline.backends import backend_class
from mllm_msr.pipeline.cost.report import CostReport, StageCost
from mllm_msr.ranker.training.lora import make_trainable

# Stages allow three new tokens per word of their length limit.
_TOKENS_PER_WORD: Final = 3
_TRAIN_DTYPES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def with_memory(report: CostReport, settings: Settings) -> CostReport:
    """Add the estimated peak memory of its stages to a report.

    Args:
        report: Costs of the stages that call a model.
        settings: The run's settings.

    Returns:
        The same report. `memory_bytes` stays None for models of endpoints, and for models whose
        configuration cannot be read or has an unknown form.
    """
    stages = (replace(stage, memory_bytes=_peak(stage, settings)) for stage in report.stages)
    return replace(report, stages=tuple(stages))


def _peak(stage: StageCost, settings: Settings) -> int | None:
    kind = stage.stage.partition("/")[0]
    models = {
        "summarize": settings.summarize.model,
        "infer": settings.infer.model,
        "score": settings.score.model,
    }
    used = models.get(kind) or settings.model
    backend = backend_class(used)
    checkpoint = backend.trainable_checkpoint(**used.plugin_kwargs()) if backend.is_local else None
    if checkpoint is None:
        return None
    parameters = inspect.signature(backend).parameters.values()
    arguments = {one.name: one.default for one in parameters} | used.plugin_kwargs()
    try:
        model = empty_model(load_config(checkpoint, revision=arguments.get("revision")))
        if kind == "train":
            return _training_peak(make_trainable(model, settings.train), stage, settings.train)
        return _inference_peak(model, stage, arguments, n_new=_new_tokens(kind, settings))
    except (MllmMsrError, AttributeError):  # sizes have other names in some configurations
        return None


def _inference_peak(model: Any, stage: StageCost, arguments: dict[str, Any], *, n_new: int) -> int:
    device = resolve_device(arguments.get("device"))
    # The demo model calls its data type a precision.
    dtype = resolve_dtype(arguments.get("dtype") or arguments["precision"], device)
    length = stage.longest_prompt + n_new
    n_rows = min(arguments["batch_size"], max(1, arguments["max_batch_tokens"] // max(1, length)))
    return inference_bytes(
        model,
        dtype,
        Batch(n_rows * length, length),
        fused=arguments.get("attention") != "eager",
    )


def _training_peak(model: Any, stage: StageCost, train: TrainSettings) -> int:
    on_gpu = resolve_device("auto") != "cpu"
    return training_bytes(
        model,
        "float32" if train.weight_format == "full" else _TRAIN_DTYPES[train.precision],
        Batch(train.batch_size * stage.longest_prompt, stage.longest_prompt),
        checkpointing=train.gradient_checkpointing,
        fused=on_gpu or train.precision == "fp32",
    )


def _new_tokens(kind: str, settings: Settings) -> int:
    """Return the limit of new tokens of a stage's answers."""
    summarize = settings.summarize
    words = {
        "summarize": max(summarize.text_words, summarize.image_words, summarize.words),
        "infer": settings.infer.words,
    }
    return _TOKENS_PER_WORD * words.get(kind, 0)
