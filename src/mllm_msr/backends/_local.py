"""A checkpoint run in this process: looked at when named, loaded when first asked.

Checking settings and skipping finished stages need a backend's fingerprint and no weights, so
nothing heavy is imported or loaded before there is a prompt to answer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

if TYPE_CHECKING:
    from mllm_msr.inference.engine.engine import Engine
    from mllm_msr.models.loading import Attention, CheckpointInfo, Precision


# Loading sets PyTorch's default precision for the whole process: two at once get each other's.
_LOADING: Final = threading.Lock()


class LocalBackend(Backend):
    """What the backends of this process share; its arguments are those of `load_model`.

    Args:
        kind: Begins the fingerprint: the backend's name.
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        dtype: Precision of the weights.
        device: A torch device, or "auto".
        adapter: Folder of a LoRA adapter.
        attention: Implementation of attention.
        batch_size: Most prompts in a batch.
        max_batch_tokens: Most tokens in a batch, padding and new tokens included.
        prefix_cache_bytes: Memory for what has been read of images.
        speculative_tokens: Most tokens of an answer that are guessed at once.
        threads: Threads of this process on the CPU; `None` leaves them as they are.
    """

    is_local = True
    caches_image_prefixes = True

    def __init__(
        self,
        kind: str,
        checkpoint: str,
        *,
        revision: str | None,
        dtype: Precision,
        device: str,
        adapter: Path | str | None,
        attention: Attention,
        batch_size: int,
        max_batch_tokens: int,
        prefix_cache_bytes: int,
        speculative_tokens: int,
        threads: int | None,
    ) -> None:
        self._kind = kind
        self._checkpoint = checkpoint
        self._revision = revision
        self._dtype: Precision = dtype
        self._device = device
        self._adapter = Path(adapter) if adapter is not None else None
        self._attention: Attention = attention
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        self._prefix_cache_bytes = prefix_cache_bytes
        self._speculative_tokens = speculative_tokens
        self._threads = threads
        self._loaded: Engine | None = None
        self._closed = False

    @functools.cached_property
    def facts(self) -> CheckpointInfo:
        """Identity and abilities, from the checkpoint's files.

        Raises:
            BackendError: There is no such checkpoint or adapter.
        """
        from mllm_msr.models.loading import inspect_checkpoint

        return inspect_checkpoint(
            self._checkpoint,
            revision=self._revision,
            dtype=self._dtype,
            device=self._device,
            adapter=self._adapter,
        )

    @property
    def fingerprint(self) -> str:
        """Weights by content or commit, precision and adapter."""
        return f"{self._kind}:{self.facts.fingerprint}"

    @property
    def capabilities(self) -> Capabilities:
        """Images where the checkpoint reads them; choices and adapters always."""
        return Capabilities(images=self.facts.supports_images, choices=True, adapters=True)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts greedily, a batch of similar lengths at a time."""
        return self._engine().generate(prompts)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Log-probabilities of the choices as first new token, over the whole vocabulary."""
        return self._engine().score(prompts, choices)

    def forget(self) -> None:
        """Drop what earlier prompts have left in memory; answers do not depend on it."""
        if self._loaded is not None:
            self._loaded.forget()

    def close(self) -> None:
        """Let the model go."""
        self._closed = True
        if self._loaded is not None:
            self._loaded.close()

    def _engine(self) -> Engine:
        if self._closed:
            raise BackendError(
                needed="an open backend", received="a closed one", remedy="make a new one"
            )
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Engine:
        import torch

        from mllm_msr.inference.engine.engine import Engine
        from mllm_msr.models.loading import load_model

        if self._threads is not None:
            torch.set_num_threads(self._threads)
        with _LOADING:
            loaded = load_model(
                self._checkpoint,
                revision=self._revision,
                dtype=self._dtype,
                device=self._device,
                adapter=self._adapter,
                attention=self._attention,
            )
        return Engine(
            loaded,
            batch_size=self._batch_size,
            max_batch_tokens=self._max_batch_tokens,
            prefix_cache_bytes=self._prefix_cache_bytes,
            speculative_tokens=self._speculative_tokens,
        )
