"""Projector of a multimodal checkpoint: the layers between vision tower and language model.

A file of a projector has the names of the module's own weights, such as `linear_1.weight`. The
packaged projector of the small model has this format, and so has the result of `mllm-msr align`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mllm_msr.errors import BackendError, first_line

# Name of the module in LLaVA and the model types that follow it.
_NAME: Final = "multi_modal_projector"


def find_projector(model: nn.Module) -> nn.Module:
    """Return the projector of a model.

    Raises:
        BackendError: The model has no projector of LLaVA's kind.
    """
    inner: Any = getattr(model, "model", model)
    projector = getattr(inner, _NAME, None)
    if not isinstance(projector, nn.Module):
        raise BackendError(
            f"{type(model).__name__} has no projector of LLaVA's kind, which align trains. Use a "
            "checkpoint of the LLaVA family or model.backend=smollm, or set align.enabled=false."
        )
    return projector


def load_projector(model: nn.Module, file: Path) -> None:
    """Replace the weights of a model's projector by those of a file.

    Args:
        model: A model with a projector; its data types and devices stay.
        file: Weights of the projector (safetensors).

    Raises:
        BackendError: The model has no projector, the file is unreadable, or it does not fit.
    """
    projector = find_projector(model)
    try:
        projector.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as cause:
        reason = first_line(cause).rstrip(":.")
        raise BackendError(
            f"{file} is not a projector of this model: {reason}. Use the file that align wrote for "
            "the same checkpoint, or run align again."
        ) from cause
