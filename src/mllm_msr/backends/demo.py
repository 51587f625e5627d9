"""The packaged small model as a backend: no download, no GPU, a few minutes for a whole run.

Its weights are ordinary Hugging Face files inside this package (`embedded/weights`), read by the
same loader and driven by the same engine as a 7B LLaVA; only the defaults differ.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

from mllm_msr.backends._local import LocalBackend
from mllm_msr.demo_model import weights_folder

# With more copies the memory bandwidth of a machine is the limit, not its cores.
_MAX_COPIES: Final = 4


@final
class DemoBackend(LocalBackend):
    """The packaged model, or one of its kind, loaded when it is first asked.

    Args:
        weights: Folder of weights to use instead of the packaged ones.
        adapter: Folder of a LoRA adapter in PEFT's format.
        precision: "float32" (answers do not depend on batches), "bfloat16" (three times as fast
            on CPUs that compute in it, where about one in a hundred pairs of candidates, all
            near ties, changes its order), or "auto" for bfloat16 on such CPUs alone.
        device: A torch device, or "auto" for the first GPU where there is one.
        batch_size: Most prompts in a batch.
        max_batch_tokens: Most tokens in a batch, padding and new tokens included.
        prefix_cache_bytes: Memory for what the model has read of images when it scored, used
            where later calls ask about them again, as a service does; 0 keeps nothing.
        speculative_tokens: Most tokens of an answer that are guessed at once, from what prompts
            and answers said before, and read in one step; 0 guesses none. What is written does
            not depend on it.
        threads: Threads of this process on the CPU; `None` leaves them as they are.

    Raises:
        BackendError: On first use: the weights cannot be loaded.
    """

    def __init__(
        self,
        *,
        weights: Path | None = None,
        adapter: Path | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
        device: str = "auto",
        batch_size: int = 64,
        max_batch_tokens: int = 32_768,
        prefix_cache_bytes: int = 0,
        speculative_tokens: int = 3,
        threads: int | None = None,
    ) -> None:
        if precision == "auto":
            precision = "bfloat16" if _computes_in_bfloat16() else "float32"
        super().__init__(
            "demo",
            str(weights if weights is not None else weights_folder()),
            revision=None,
            dtype=precision,
            device=device,
            adapter=adapter,
            # Fused attention of one new token is four times as slow in bfloat16 on a CPU.
            attention="eager" if precision == "bfloat16" else "auto",
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            prefix_cache_bytes=prefix_cache_bytes,
            speculative_tokens=speculative_tokens,
            threads=threads,
        )

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str:
        """Return the folder of `weights`, by default the packaged ones."""
        return str(model_kwargs.get("weights") or weights_folder())

    @classmethod
    def with_adapter(
        cls, model_kwargs: Mapping[str, Any], adapter: Path, method: Literal["lora", "full"]
    ) -> dict[str, Any]:
        """Set `adapter` (LoRA) or `weights` (full fine-tuning)."""
        if method == "lora":
            return {**model_kwargs, "adapter": adapter}
        return {**model_kwargs, "weights": adapter}

    @classmethod
    def default_copies(cls, **model_kwargs: Any) -> int:
        """Return one copy per core, at most 4, on the CPU; 1 on a GPU."""
        from mllm_msr.models.loading import resolve_device  # noqa: PLC0415 - imports torch

        if resolve_device(model_kwargs.get("device")) != "cpu":
            return 1
        return min(os.cpu_count() or 1, _MAX_COPIES)


def _computes_in_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16; elsewhere that is slow."""
    import torch  # noqa: PLC0415 - takes a second, and only "auto" needs it

    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
