"""Backend for Hugging Face checkpoints, run in this process.

Supports image-text-to-text models (the paper's LLaVA-v1.6) and text-only causal models (its
Llama-3) from a folder or the hub, optionally with a LoRA adapter. `models/loading.py` loads the
checkpoint and `inference/engine` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

from pydantic import NonNegativeInt, PositiveInt

from mllm_msr.backends._local import LocalBackend
from mllm_msr.models.processor_options import ProcessorOptions
from mllm_msr.types import Attention, BatchSize, Device, Precision, TemplateValue, Threads


@final
class HuggingFaceBackend(LocalBackend):
    """Hugging Face checkpoint, loaded for the first prompt.

    Args:
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        dtype: "auto", "bfloat16", "float16", "float32" or "4bit"; "auto" is bfloat16 on a GPU
            that supports it, float16 on other GPUs, and float32 on the CPU.
        device: A torch device, or "auto" for the first GPU and otherwise the CPU.
        projector: Weights of the projector, as `mllm-msr align` writes them.
        adapter: Folder of a LoRA adapter in PEFT's format.
        batch_size: Maximum number of prompts in a batch.
        max_batch_tokens: Maximum number of tokens in a batch, including padding and new tokens.
        prefix_cache_bytes: Memory for the keys and values of scored prompts with images, which
            later calls with the same images reuse, as in a service; 0 disables the cache.
        speculative_tokens: Maximum number of draft tokens per sequence and decoding step, proposed
            from earlier prompts and answers; 0 disables speculative decoding. Answers do not
            depend on it.
        attention: Attention implementation; "auto" is the model's default.
        threads: Number of CPU threads of this process; None leaves it unchanged.
        image_side: Maximum width and height of an image before the processor, in pixels.
        image_tokens: Maximum number of tokens of an image; larger images get fewer tiles or pixels.
        processor: Options of the checkpoint's image processor or processor, by name.
        template: Variables of the chat template, such as `enable_thinking`.

    Raises:
        BackendError: On first use, if the checkpoint cannot be loaded, has no chat template, or
            does not support an option.
        MissingExtraError: On first use, if a package for 4-bit weights or adapters is missing.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        revision: str | None = None,
        dtype: Precision = "auto",
        device: Device = "auto",
        projector: Path | None = None,
        adapter: Path | None = None,
        batch_size: BatchSize = 16,
        max_batch_tokens: PositiveInt = 16_384,
        prefix_cache_bytes: NonNegativeInt = 0,
        speculative_tokens: NonNegativeInt = 3,
        attention: Attention = "auto",
        threads: Threads | None = None,
        image_side: PositiveInt | None = None,
        image_tokens: PositiveInt | None = None,
        processor: dict[str, Any] | None = None,
        template: dict[str, TemplateValue] | None = None,
    ) -> None:
        super().__init__(
            "huggingface",
            checkpoint,
            revision=revision,
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
            options=ProcessorOptions(image_side, image_tokens, processor or {}, template or {}),
        )

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str | None:
        """Return `checkpoint`; None if it is not given."""
        checkpoint = model_kwargs.get("checkpoint")
        return str(checkpoint) if checkpoint else None

    @classmethod
    def with_adapter(
        cls, model_kwargs: Mapping[str, Any], adapter: Path, method: Literal["lora", "full"]
    ) -> dict[str, Any]:
        """Return the arguments with `adapter` (LoRA) or `checkpoint` (full fine-tuning) set."""
        if method == "lora":
            return {**model_kwargs, "adapter": adapter}
        return {**model_kwargs, "checkpoint": str(adapter)}
