"""Inputs of the projector for all images: the vision tower is frozen, so it runs once per image.

The features are an array of float16 on disk, which a resumed training reads again. Training reads
single rows of it, so that a large catalog needs little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mllm_msr.errors import BackendError
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.projector import find_projector
from mllm_msr.models.vision_cache import VisionCache, encode_images

_BATCH: Final = 16


def write_features(
    model: nn.Module,
    renderer: Renderer,
    rows: Sequence[Rendered],
    file: Path,
    *,
    advance: Callable[[int], None],
) -> NDArray[np.float16]:
    """Encode images, unless the file exists, and open the file.

    Args:
        model: Model with a projector, on its device.
        renderer: Renderer of the model.
        rows: A prompt for each image, which contains only this image.
        file: The array (npy). It appears when it is complete.
        advance: Called with the number of images done since the last call.

    Returns:
        Inputs of the projector, read from disk on access: [images, tokens, hidden].

    Raises:
        BackendError: The model cannot be aligned.
        ImageError: An image cannot be opened.
    """
    if not file.exists():
        draft = file.with_name(f".{file.name}")
        array: NDArray[np.float16] | None = None
        for start in range(0, len(rows), _BATCH):
            features = _projector_inputs(model, renderer, rows[start : start + _BATCH])
            if array is None:
                shape = (len(rows), *features.shape[1:])
                array = np.lib.format.open_memmap(draft, "w+", dtype=np.float16, shape=shape)
            array[start : start + len(features)] = features
            advance(len(features))
        del array  # writes it
        draft.rename(file)
    found: NDArray[np.float16] = np.load(file, mmap_mode="r")
    return found


def project(projector: nn.Module, features: NDArray[np.float16], *, like: Tensor) -> dict[str, Any]:
    """Return the arguments of a model's `forward` that replace the pixels of images.

    Args:
        projector: The projector, in its own data type.
        features: Its inputs, one image per prompt: [batch, tokens, hidden].
        like: A tensor with the data type and the device of the language model.
    """
    weight = next(projector.parameters())
    inputs = torch.from_numpy(np.array(features)).to(weight.device, weight.dtype)
    tokens = projector(inputs).to(like.device, like.dtype)  # [batch, tokens, hidden]
    output = BaseModelOutputWithPooling(pooler_output=list(tokens))
    return {"mm_encoder_outputs": {"image": output}}


def _projector_inputs(
    model: nn.Module, renderer: Renderer, rows: Sequence[Rendered]
) -> NDArray[np.float16]:
    """Return the inputs of the projector for the images of some prompts.

    Raises:
        BackendError: The model does not use the outputs of its projector as its image tokens.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    projector = find_projector(model)
    if not VisionCache.supports(model):
        raise _unsupported(model)
    hook = projector.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    try:
        tokens = encode_images(model, renderer, rows).get("pooler_output")
    finally:
        hook.remove()
    if len(seen) != 1 or len(seen[0]) != 2 or tokens is None or len(tokens) != len(rows):
        raise _unsupported(model)
    inputs, output = seen[0]
    if len(inputs) != len(rows) or any(
        not torch.equal(one, own) for one, own in zip(tokens, output, strict=True)
    ):
        raise _unsupported(model)
    found: NDArray[np.float16] = inputs.half().cpu().numpy()
    return found


def _unsupported(model: nn.Module) -> BackendError:
    return BackendError(
        f"{type(model).__name__} changes the outputs of its projector before the language model "
        "reads them, which align does not support. Use a checkpoint of LLaVA 1.5's structure or "
        "model.backend=smollm, or set align.enabled=false."
    )
