"""Peak memory of the stages whose model runs in this process, for `mllm-msr plan`.

The estimate needs the configuration of the checkpoint, not its weights (`models/memory.py`). It
does not include cached images. On a CPU it is the memory of the whole process, as the operating
system counts it; on a GPU, that of the tensors.
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import replace
from typing import Any, Final

from mllm_msr.backends._local import LocalBackend
from mllm_msr.config.settings import Settings
from mllm_msr.errors import MllmMsrError
from mllm_msr.models.loading import load_config, resolve_device, resolve_dtype
from mllm_msr.models.memory import Batch, empty_model, inference_bytes, training_bytes
from mllm_msr.models.projector import find_projector
from mllm_msr.pipeline.backends import backend_class, open_backend
from mllm_msr.pipeline.cost.report import CostReport, StageCost
from mllm_msr.prompts.templates import TOKENS_PER_WORD
from mllm_msr.ranker.training.lora import make_trainable
from mllm_msr.ranker.training.prefix_sharing import supports_shared_prefixes

# Python with PyTorch, Transformers, Lightning and the data of a small run: measured .59 GB.
_PROCESS_BYTES: Final = 600_000_000
# On a CPU, freed memory stays with the process in pieces, of which not all are used again.
_CPU_FACTOR: Final = 1.2


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
        "distill": settings.score.model,
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
        if kind not in {"train", "align"}:
            device = resolve_device(arguments.get("device"))
            n_new = _new_tokens(kind, settings)
            with contextlib.closing(open_backend(used)) as opened:
                if isinstance(opened, LocalBackend):
                    arguments["dtype"] = opened.precision
            peak = _inference_peak(model, stage, arguments, device=device, n_new=n_new)
        else:
            device = resolve_device("auto")
            peak = (
                _training_peak(model, stage, settings, on_cpu=device == "cpu")
                if kind == "train"
                else _alignment_peak(model, stage, settings)
            )
    except (MllmMsrError, AttributeError):  # sizes have other names in some configurations
        return None
    return round(_PROCESS_BYTES + _CPU_FACTOR * peak) if device == "cpu" else peak


def _inference_peak(
    model: Any, stage: StageCost, arguments: dict[str, Any], *, device: str, n_new: int
) -> int:
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


def _training_peak(model: Any, stage: StageCost, settings: Settings, *, on_cpu: bool) -> int:
    train = settings.train
    model = make_trainable(model, train)
    n_rows, length = train.batch_size, stage.longest_prompt
    if train.objective == "listwise":
        n_rows *= 1 + (train.negatives_per_positive or settings.data.train_negatives)
    shared = stage.shared_tokens / max(1, stage.calls) if supports_shared_prefixes(model) else 0.0
    return training_bytes(
        model,
        train.dtype,
        Batch(round(n_rows * (length - shared)), length),
        checkpointing=train.gradient_checkpointing,
        fused=not on_cpu or train.precision == "fp32",
        mixed=train.precision != "fp32",
        keeps_best=on_cpu,
        trains_inputs=settings.recommend.reads_vectors,
    )


def _alignment_peak(model: Any, stage: StageCost, settings: Settings) -> int:
    """Return the peak of training the projector: results of all layers, gradients of no other."""
    model.requires_grad_(False)
    find_projector(model).requires_grad_(True)
    n_rows, n_answer = settings.align.batch_size, settings.align.max_answer_tokens
    length = stage.longest_prompt + n_answer
    batch = Batch(n_rows * length, length)
    # On GPUs, weights keep their own type, which is bfloat16 in most checkpoints.
    peak = training_bytes(model, "bfloat16", batch, checkpointing=False)
    # Logits and their gradients at every token of the answers, not only at one.
    return peak + 8 * n_rows * n_answer * int(model.config.get_text_config().vocab_size)


def _new_tokens(kind: str, settings: Settings) -> int:
    """Return the limit of new tokens of a stage's answers."""
    summarize = settings.summarize
    words = {
        "summarize": max(summarize.text_words, summarize.image_words, summarize.words),
        "infer": settings.infer.words,
    }
    return TOKENS_PER_WORD * words.get(kind, 0)
