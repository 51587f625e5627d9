"""Checks of loaded models: options of the processor, and batches of models that are not tested.

The compatibility test covers the families in `models/families.py`. A model of another type might
ignore the mask of padding, or mix up the images of a batch. Before its first batch, two prompts are
run together, padded on either side, and the shorter one alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from PIL import Image
from torch import Tensor

from mllm_msr.errors import BackendError, first_line
from mllm_msr.models.families import is_tested
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.last_token import logits_at
from mllm_msr.models.processor_options import ProcessorOptions

logger = logging.getLogger(__name__)

# Largest difference of a logit, in standard deviations. Half precision alone causes 0.03.
_TOLERANCES: Final = {torch.float32: 0.005, torch.float16: 0.1, torch.bfloat16: 0.2}

# What the code of a model or a processor may raise for one prompt.
MODEL_ERRORS: Final = (
    *(RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError),
)


def require_fitting_images(model: Any, processor: Any, options: ProcessorOptions) -> None:
    """Check that a model can read an image that its processor prepared with some options.

    Some options, such as `image_seq_len`, only repeat in the processor what the weights say.

    Args:
        model: Model in evaluation mode, on its device.
        processor: Its processor, with the options.
        options: The options.

    Raises:
        BackendError: The options contradict the weights.
    """
    image = Image.new("RGB", (64, 48))
    inputs = processor(
        text=[processor.image_token], images=[image], add_special_tokens=False, return_tensors="pt"
    )
    inputs = inputs.to(model.device, dtype=model.dtype)
    try:
        with torch.inference_mode():
            model(**inputs)
    except MODEL_ERRORS as error:
        given = ", ".join(f"model.processor.{name}={v!r}" for name, v in options.processor.items())
        raise BackendError(
            f"The model does not fit {given}: {error}. Remove the options that the checkpoint's "
            "weights do not allow."
        ) from error


class BatchCheck:
    """Check of one model, made once.

    Args:
        model: Model in evaluation mode, on its device.
        renderer: Renderer of the model.
    """

    def __init__(self, model: Any, renderer: Renderer) -> None:
        self._model = model
        self._renderer = renderer
        self._is_done = is_tested(model.config)

    def limit(self, batch_size: int, prompts: Sequence[Rendered]) -> int:
        """Return the batch size that a model allows: 1 if batches change its results.

        Args:
            batch_size: The size that was requested.
            prompts: The prompts that run next; the check reads two of different lengths.
        """
        pair = find_pair(prompts)
        if self._is_done or batch_size == 1 or pair is None:
            return batch_size
        self._is_done = True
        problem = find_batch_problem(self._model, self._renderer, pair)
        if not problem:
            return batch_size
        logger.warning(
            "Prompts run one by one, because batches change the results of this model of the type "
            "%s: %s.",
            self._model.config.model_type,
            problem,
        )
        return 1


def find_pair(prompts: Sequence[Rendered]) -> tuple[Rendered, Rendered] | None:
    """Return the shortest and the longest prompt, with images if possible; None if all are equal.

    Args:
        prompts: Rendered prompts.
    """
    shown = [prompt for prompt in prompts if prompt.images]
    for candidates in (shown, prompts):
        ordered = sorted(candidates, key=lambda prompt: len(prompt.input_ids))
        if ordered and len(ordered[0].input_ids) < len(ordered[-1].input_ids):
            return ordered[0], ordered[-1]
    return None


def find_batch_problem(model: Any, renderer: Renderer, pair: tuple[Rendered, Rendered]) -> str:
    """Return how a batch changes the result of a prompt, or an empty string.

    Args:
        model: Model in evaluation mode, on its device.
        renderer: Renderer of the model.
        pair: Two prompts of different lengths.

    Raises:
        RuntimeError: The model cannot run the first prompt alone.
    """
    alone = _last_logits(model, renderer, pair[:1], "right")[0]
    scale = float(alone.std().clamp(min=1e-12))
    sides: tuple[Literal["right", "left"], ...] = ("right", "left")
    for side in sides:
        try:
            together = _last_logits(model, renderer, pair, side)[0]
        except MODEL_ERRORS as error:
            return first_line(error)
        difference = float((together - alone).abs().max()) / scale
        if not difference <= _TOLERANCES.get(model.dtype, 0.2):
            return f"with padding on the {side}, logits differ by {difference:.2f} deviations"
    return ""


@torch.inference_mode()
def _last_logits(
    model: Any, renderer: Renderer, prompts: Sequence[Rendered], side: Literal["left", "right"]
) -> Tensor:
    """Return the logits after each prompt [batch, vocabulary], in float32."""
    batch = renderer.collate(prompts, pad_side=side, with_answers=False)
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }
    if side == "left":
        output = model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=renderer.pad_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        first: Tensor = output.logits[0]
        return first.float()
    with logits_at(model, inputs["attention_mask"].sum(dim=1) - 1):
        logits: Tensor = model(**inputs, use_cache=False).logits[:, -1]
    return logits.float()
