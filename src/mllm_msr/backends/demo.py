"""Backend for the packaged demo model: no download, no GPU, a whole run in a few minutes.

The weights are ordinary Hugging Face files inside this package (`demo_model/weights`), loaded and
run by the same code as a 7B LLaVA. Only the defaults differ.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

from pydantic import NonNegativeInt, PositiveInt

from mllm_msr.backends._local import LocalBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.types import BatchSize, Device, Threads

_MAX_COPIES: Final = 4
# Well below the source coverage of the demo model on its own data (docs/model-card.md).
_MIN_SOURCE_COVERAGE: Final = 0.8


@final
class DemoBackend(LocalBackend):
    """Packaged demo model, loaded for the first prompt.

    Args:
        weights: Folder of weights to use instead of the packaged ones.
        adapter: Folder of a LoRA adapter in PEFT's format.
        precision: "float32" (answers do not depend on the batch), "bfloat16" (three times as fast
            on CPUs with bfloat16 instructions; changes the order of about one in a hundred pairs
            of candidates, all of them near ties), or "auto" for bfloat16 on such CPUs only.
        device: A torch device, or "auto" for the first GPU and otherwise the CPU.
        batch_size: Maximum number of prompts in a batch.
        max_batch_tokens: Maximum number of tokens in a batch, including padding and new tokens.
        prefix_cache_bytes: Memory for the keys and values of scored prompts with images, which
            later calls with the same images reuse, as in a service; 0 disables the cache.
        speculative_tokens: Maximum number of draft tokens per sequence and decoding step, proposed
            from earlier prompts and answers; 0 disables speculative decoding. Answers do not
            depend on it.
        threads: Number of CPU threads of this process; None leaves it unchanged.

    Raises:
        BackendError: On first use, if the weights cannot be loaded.
    """

    def __init__(
        self,
        *,
        weights: Path | None = None,
        adapter: Path | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
        device: Device = "auto",
        batch_size: BatchSize = 64,
        max_batch_tokens: PositiveInt = 32_768,
        prefix_cache_bytes: NonNegativeInt = 0,
        speculative_tokens: NonNegativeInt = 3,
        threads: Threads | None = None,
    ) -> None:
        if precision == "auto":
            import torch  # noqa: PLC0415 - takes a second, and only "auto" needs it

            cpu = torch.cpu.get_capabilities()
            native = cpu.get("amx_bf16") or cpu.get("avx512_bf16")  # elsewhere bfloat16 is slow
            precision = "bfloat16" if native else "float32"
        super().__init__(
            "demo",
            str(weights if weights is not None else weights_folder()),
            revision=None,
            dtype=precision,
            device=device,
            adapter=adapter,
            attention="auto",
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            prefix_cache_bytes=prefix_cache_bytes,
            speculative_tokens=speculative_tokens,
            threads=threads,
        )

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str:
        """Return the folder `weights`, or that of the packaged weights by default."""
        return str(model_kwargs.get("weights") or weights_folder())

    @classmethod
    def with_adapter(
        cls, model_kwargs: Mapping[str, Any], adapter: Path, method: Literal["lora", "full"]
    ) -> dict[str, Any]:
        """Return the arguments with `adapter` (LoRA) or `weights` (full fine-tuning) set."""
        if method == "lora":
            return {**model_kwargs, "adapter": adapter}
        return {**model_kwargs, "weights": adapter}

    @classmethod
    def caveat(
        cls, source_coverage: float | None, *, has_own_projector: bool = False
    ) -> str | None:
        """Return a warning for data that the demo model was not trained on, or None."""
        del has_own_projector
        if source_coverage is None or source_coverage >= _MIN_SOURCE_COVERAGE:
            return None
        return (
            "The demo model was not trained on data of this kind. Only "
            f"{source_coverage:.0%} of the words of its text summaries occur in the items' texts; "
            f"on its own data it is more than {_MIN_SOURCE_COVERAGE:.0%}. It also describes "
            "unknown images as objects of its own data. Use these results only to test the "
            "software, and a larger model for recommendations."
        )

    @classmethod
    def default_copies(cls, **model_kwargs: Any) -> int:
        """Return one copy per core, at most 4, on the CPU; 1 on a GPU."""
        from mllm_msr.models.loading import resolve_device  # noqa: PLC0415 - imports torch

        if resolve_device(model_kwargs.get("device")) != "cpu":
            return 1
        return min(os.cpu_count() or 1, _MAX_COPIES)
