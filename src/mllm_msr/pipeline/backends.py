"""Opening of the backends that the settings of a run select."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from mllm_msr import registry
from mllm_msr.config.settings import ExecutorSettings, ModelSettings
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.inference.ray.backend import RayBackend
from mllm_msr.interfaces import Backend
from mllm_msr.storage.response_cache import ResponseCache

# Batches per Ray worker that are looked up in the response cache together.
_BATCHES_PER_LOOKUP: Final = 16
# Limits of requests while a model is checked: long enough for a server that runs.
_CHECK_LIMITS: Final[Mapping[str, Any]] = {"attempts": 1, "timeout": 5.0, "total_timeout": 5.0}


def backend_class(model: ModelSettings) -> type[Backend]:
    """Return the class of a model's backend."""
    return registry.find_backend(model.backend)


def backend_arguments(
    model: ModelSettings, weights: Path | None = None, method: Literal["lora", "full"] = "lora"
) -> dict[str, Any]:
    """Return the constructor arguments of a model's backend.

    Args:
        model: The model's settings.
        weights: Folder of fine-tuned weights; None for the base model.
        method: Fine-tuning method of the weights.
    """
    arguments = model.plugin_kwargs()
    if weights is None:
        return arguments
    return backend_class(model).with_adapter(arguments, weights, method)


def open_backend(
    model: ModelSettings,
    weights: Path | None = None,
    method: Literal["lora", "full"] = "lora",
    *,
    optional: Mapping[str, Any] = MappingProxyType({}),
) -> Backend:
    """Open a backend in this process, without a response cache; the caller closes it.

    Args:
        model: The model's settings.
        weights: Folder of fine-tuned weights.
        method: Fine-tuning method of the weights.
        optional: Arguments to pass if the backend accepts them and the settings do not set them.
    """
    kind = backend_class(model)
    accepted = inspect.signature(kind).parameters
    extra = {name: value for name, value in optional.items() if name in accepted}
    return kind(**{**extra, **backend_arguments(model, weights, method)})


def open_for_check(model: ModelSettings) -> Backend:
    """Open a backend that reports within seconds whether its model is available.

    Each request to an endpoint has one short attempt. The caller closes the backend.

    Args:
        model: The model's settings.
    """
    kind = backend_class(model)
    accepted = inspect.signature(kind).parameters
    short = {name: value for name, value in _CHECK_LIMITS.items() if name in accepted}
    return kind(**{**backend_arguments(model), **short})


def open_cached(
    model: ModelSettings,
    cache: ResponseCache,
    executor: ExecutorSettings,
    weights: Path | None = None,
    method: Literal["lora", "full"] = "lora",
) -> CachedBackend:
    """Open a backend behind a run's response cache; the caller closes it.

    Args:
        model: The model's settings.
        cache: The run's response cache.
        executor: Where prompts are answered: in this process or by Ray workers.
        weights: Folder of fine-tuned weights.
        method: Fine-tuning method of the weights.
    """
    if executor.name == "local":
        return CachedBackend(open_backend(model, weights, method), cache)
    workers = RayBackend(
        model.backend,
        backend_arguments(model, weights, method),
        **executor.model_dump(exclude={"name"}),
    )
    # Large chunks, so that no worker idles while others finish their last batches.
    chunk = max(4096, _BATCHES_PER_LOOKUP * executor.workers * executor.batch)
    return CachedBackend(workers, cache, chunk_size=chunk)
