"""Base of the backends that run a checkpoint in this process.

The fingerprint only requires inspecting the checkpoint; the weights are loaded for the first
prompt. Checking settings and skipping finished stages need no weights, so torch and Transformers
are imported on first use.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import NonNegativeInt, PositiveInt

from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.models.processor_options import DEFAULT_OPTIONS, ProcessorOptions
from mllm_msr.types import (
    Attention,
    BatchSize,
    ChoiceScores,
    Completion,
    Device,
    Precision,
    Prompt,
    Threads,
)

if TYPE_CHECKING:
    from mllm_msr.inference.engine.engine import Engine
    from mllm_msr.models.loading import CheckpointInfo, LoadedCheckpoint


# Loading sets PyTorch's default dtype for the whole process, so concurrent loads would interfere.
_LOADING_LOCK: Final = threading.Lock()


class LocalBackend(Backend):
    """Base class of backends that run a model in this process; see `load_model` and `Engine`.

    Args:
        kind: Name of the backend, the first part of the fingerprint.
        checkpoint: Folder, or id on the hub; or a function that returns it, called on first use.
        revision: Branch, tag or commit on the hub.
        dtype: Precision of the weights.
        device: A torch device, or "auto".
        projector: Weights of the projector, instead of those of the checkpoint.
        adapter: Folder of a LoRA adapter.
        attention: Attention implementation.
        batch_size: Maximum number of prompts in a batch.
        max_batch_tokens: Maximum number of tokens in a batch, including padding and new tokens.
        prefix_cache_bytes: Memory for the keys and values of prompts with images.
        speculative_tokens: Maximum number of draft tokens per sequence and step.
        threads: Number of CPU threads of this process; None leaves it unchanged.
        options: How images are prepared, and variables of the chat template.
    """

    is_local = True
    caches_image_prefixes = True
    reads_vectors = True

    def __init__(
        self,
        kind: str,
        checkpoint: str | Callable[[], str],
        *,
        revision: str | None,
        dtype: Precision,
        device: Device,
        projector: Path | str | None = None,
        adapter: Path | str | None,
        attention: Attention,
        batch_size: BatchSize,
        max_batch_tokens: PositiveInt,
        prefix_cache_bytes: NonNegativeInt,
        speculative_tokens: NonNegativeInt,
        threads: Threads | None,
        options: ProcessorOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._kind = kind
        self._checkpoint = checkpoint
        self._revision = revision
        self._dtype: Precision = dtype
        self._device = device
        self._projector = Path(projector) if projector is not None else None
        self._adapter = Path(adapter) if adapter is not None else None
        self._attention: Attention = attention
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        self._prefix_cache_bytes = prefix_cache_bytes
        self._speculative_tokens = speculative_tokens
        self._threads = threads
        self._options = options
        self._loaded: LoadedCheckpoint | None = None
        self._engine: Engine | None = None
        self._closed = False

    @functools.cached_property
    def _source(self) -> str:
        """Return the folder of the checkpoint, or its id on the hub."""
        return self._checkpoint if isinstance(self._checkpoint, str) else self._checkpoint()

    @property
    def precision(self) -> Precision:
        """Return the precision of the weights; asked for when the checkpoint is used first."""
        return self._dtype

    @functools.cached_property
    def checkpoint_info(self) -> CheckpointInfo:
        """Return the fingerprint and the image support of the checkpoint, read from its files.

        Raises:
            BackendError: There is no such checkpoint or adapter.
        """
        from mllm_msr.models.loading import inspect_checkpoint

        return inspect_checkpoint(
            self._source,
            revision=self._revision,
            dtype=self.precision,
            device=self._device,
            projector=self._projector,
            adapter=self._adapter,
            options=self._options,
        )

    @property
    def fingerprint(self) -> str:
        """Return the backend's name, weights, adapter, precision and options of the processor."""
        return f"{self._kind}:{self.checkpoint_info.fingerprint}"

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities: choices and adapters, and images if the checkpoint has them."""
        images = self.checkpoint_info.supports_images
        return Capabilities(images=images, choices=True, adapters=True)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts with greedy decoding, in batches of similar lengths."""
        return self._open_engine().generate(prompts)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Compute log-probabilities of the choices over the whole vocabulary."""
        return self._open_engine().score(prompts, choices)

    def clear_caches(self) -> None:
        """Remove all cached states of earlier prompts; answers do not change."""
        if self._engine is not None:
            self._engine.clear_caches()

    def close(self) -> None:
        """Free the model."""
        self._closed = True
        self._loaded = None
        if self._engine is not None:
            self._engine.close()

    def load(self) -> LoadedCheckpoint:
        """Load the checkpoint, or return the one that is already loaded.

        Raises:
            BackendError: The checkpoint cannot be loaded, or the backend is closed.
            MissingExtraError: A package for 4-bit weights or adapters is missing.
        """
        from mllm_msr.models.loading import load_model

        if self._closed:
            raise BackendError("The backend is closed. Create a new one.")
        if self._loaded is None:
            with _LOADING_LOCK:
                self._loaded = load_model(
                    self._source,
                    revision=self._revision,
                    dtype=self.precision,
                    device=self._device,
                    projector=self._projector,
                    adapter=self._adapter,
                    attention=self._attention,
                    options=self._options,
                )
        return self._loaded

    def _open_engine(self) -> Engine:
        """Return the engine; the first call loads the checkpoint."""
        import torch

        from mllm_msr.inference.engine.engine import Engine

        if self._engine is not None and not self._closed:
            return self._engine
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        self._engine = Engine(
            self.load(),
            batch_size=self._batch_size,
            max_batch_tokens=self._max_batch_tokens,
            prefix_cache_bytes=self._prefix_cache_bytes,
            speculative_tokens=self._speculative_tokens,
        )
        return self._engine
