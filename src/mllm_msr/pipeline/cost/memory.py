"""Peak memory of the stages whose model runs in this process, for `mllm-msr plan`.

The estimate needs the configuration of the checkpoint, not its weights (`models/memory.py`). It is
an upper bound for prompts that share prefixes, and does not include cached images.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Final

from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.errors import BackendError
from mllm_msr.models.loading import load_config, resolve_device, resolve_dtype
from mllm_msr.models.memory import Batch, empty_model, inference_bytes, training_bytes
from mllm_msr.pipeline.backends import backend_class
from mllm_msr.pipeline.cost.report import CostReport, StageCost
from mllm_msr.ranker.training.lora import default_projections, language_layers

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
    models: dict[str, Any] = {}
    stages = (
        replace(stage, memory_bytes=_peak(stage, settings, models)) for stage in report.stages
    )
    return replace(report, stages=tuple(stages))


def _peak(stage: StageCost, settings: Settings, models: dict[str, Any]) -> int | None:
    kind = stage.stage.partition("/")[0]
    section: Any = {"summarize": settings.summarize, "infer": settings.infer}.get(kind)
    section = section or (settings.score if kind == "score" else None)
    used = (section.model if section is not None else None) or settings.model
    try:
        model, arguments = _open(used, models)
        if model is None:
            return None
        if kind == "train":
            return _training_peak(model, stage, settings)
        return _inference_peak(model, stage, arguments, n_new=_new_tokens(kind, settings))
    except (BackendError, AttributeError):  # sizes have other names in some configurations
        return None


def _open(used: ModelSettings, models: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the model without weights and the arguments of its backend, with their defaults."""
    kind = backend_class(used)
    parameters = inspect.signature(kind).parameters.values()
    arguments = {one.name: one.default for one in parameters} | used.plugin_kwargs()
    checkpoint = kind.trainable_checkpoint(**used.plugin_kwargs()) if kind.is_local else None
    if checkpoint is None:
        return None, arguments
    key = used.model_dump_json()
    if key not in models:
        config = load_config(checkpoint, revision=arguments.get("revision"))
        models[key] = empty_model(config)
    return models[key], arguments


def _inference_peak(
    model: Any, stage: StageCost, arguments: dict[str, Any], *, n_new: int
) -> int | None:
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


def _training_peak(model: Any, stage: StageCost, settings: Settings) -> int:
    train = settings.train
    full = train.method == "full"
    dtype = "float32" if full else _TRAIN_DTYPES[train.precision]
    projections = set(default_projections(model))
    layers = [
        model.get_submodule(name)
        for name in language_layers(model)
        if name.rpartition(".")[2] in projections
    ]
    n_trained = (
        sum(weight.numel() for weight in model.get_decoder().parameters())
        if full
        else sum(train.rank * (layer.in_features + layer.out_features) for layer in layers)
    )
    on_gpu = resolve_device("auto") != "cpu"
    return training_bytes(
        model,
        dtype,
        Batch(train.batch_size * stage.longest_prompt, stage.longest_prompt),
        n_trained=n_trained,
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
