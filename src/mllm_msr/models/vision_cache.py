"""Cache of image features, for a vision tower whose weights do not change.

In training, every image occurs with many users and in every epoch, and encoding it costs more than
the language model does. Scoring uses the cache for models that cannot share prefixes. Transformers
models accept precomputed features in `forward` (`mm_encoder_outputs`); other models get the pixels
every time. What the features of an image are differs: one tensor, a tensor for each image, or a
tensor for each image and several layers. How features of several images are joined is therefore
learned from the model itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from cachetools import LRUCache
from torch import Tensor, nn
from transformers.utils import ModelOutput

from mllm_msr.errors import first_line
from mllm_msr.models.families import is_tested
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.self_check import MODEL_ERRORS

logger = logging.getLogger(__name__)

_MAX_BYTES: Final = 2 * 2**30

# Inputs that describe the text; all others describe the images.
_TEXT_INPUTS: Final = frozenset(
    {"input_ids", "attention_mask", "labels", "position_ids", "token_type_ids", "mm_token_type_ids"}
)
# Outputs of the vision tower itself, which the language model does not read.
_TOWER_OUTPUTS: Final = frozenset({"last_hidden_state", "hidden_states", "attentions"})

# Largest difference of a logit with features from one with pixels, in standard deviations.
_TOLERANCE: Final = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class _Features:
    """Features of the images of one prompt, as the model returns them."""

    output: ModelOutput
    n_bytes: int


class VisionCache:
    """Cache of image features by image files.

    Args:
        model: A model that `supports` accepts, on its device.
        renderer: Renderer of the model.
        max_bytes: Upper bound on the memory for features.
    """

    def __init__(
        self, model: nn.Module, renderer: Renderer, *, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._model = model
        self._renderer = renderer
        # Features of a prompt, and of it and its copy, unless one prompt shows how to join them.
        self._pair: tuple[ModelOutput, ModelOutput] | None = None
        self._are_separable = True
        self._features: LRUCache[tuple[Path, ...], _Features] = LRUCache(
            max_bytes, getsizeof=lambda features: features.n_bytes
        )

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Check whether a model accepts precomputed features."""
        inner: Any = getattr(model, "get_base_model", lambda: model)()
        takes_features = "mm_encoder_outputs" in inspect.signature(inner.forward).parameters
        return takes_features and hasattr(inner, "get_image_features")

    @classmethod
    def open(
        cls,
        model: nn.Module,
        renderer: Renderer,
        rows: Iterator[Rendered],
        *,
        max_bytes: int = _MAX_BYTES,
    ) -> VisionCache | None:
        """Return a cache, or None if images must be encoded every time.

        Models of families that are not tested are tried with one prompt: if its logits with
        features differ from those with pixels, features are not cached.

        Args:
            model: A causal language model, on its device.
            renderer: Renderer of the model.
            rows: Prompts with images; the first one is read if the model must be tried.
            max_bytes: Upper bound on the memory for features.
        """
        if not cls.supports(model):
            return None
        cache = cls(model, renderer, max_bytes=max_bytes)
        config: Any = model.config
        row = None if is_tested(config) else next(rows, None)
        problem = cache._problem(row) if row is not None else ""
        if problem:
            logger.warning("Image features are not cached: %s.", problem)
            return None
        return cache

    def inputs(self, rows: Sequence[Rendered], *, together: bool = False) -> dict[str, Any]:
        """Return the arguments of `forward` that replace the rows' pixels; empty without images.

        Args:
            rows: Rendered prompts.
            together: Encode new images in one pass if the model returns one tensor for each. This
                is faster; the features are the same except for rounding.
        """
        shown = [row for row in rows if row.images]
        if together and self._are_separable:
            self._encode_together(shown)
        features = [self._image_features(row) for row in shown]
        if not features:
            return {}
        if self._pair is None and not _has_one_field(features[0], len(shown[0].images)):
            both = encode_images(self._model, self._renderer, [shown[0], shown[0]])
            self._pair = features[0], both
        return {"mm_encoder_outputs": {"image": self._joined(features)}}

    def _encode_together(self, rows: Sequence[Rendered]) -> None:
        """Encode the images of prompts with one image each, and cache the features of each."""
        new = {row.images: row for row in rows if row.images not in self._features}
        if len(new) < 2 or any(len(images) != 1 for images in new):
            return
        output = encode_images(self._model, self._renderer, list(new.values()))
        (value, *others) = output.values()
        if isinstance(value, Tensor):
            self._are_separable = value.ndim == 3 and len(value) == len(new) and not others
            parts: Sequence[Any] = [value[n : n + 1] for n in range(len(value))]
        else:
            self._are_separable = not others and _has_one_field(output, len(new))
            parts = [(tensor,) for tensor in value]
        if self._are_separable:
            (name,) = output
            for images, part in zip(new, parts, strict=True):
                self._store(images, type(output)(**{name: part}))

    def _store(self, images: tuple[Path, ...], output: ModelOutput) -> None:
        features = _Features(output, sum(tensor.nbytes for tensor in _tensors(output)))
        if features.n_bytes <= self._features.maxsize:
            self._features[images] = features

    def _image_features(self, row: Rendered) -> ModelOutput:
        """Return the features of a row's images, encoding them if necessary."""
        cached = self._features.get(row.images)
        if cached is None:
            output = encode_images(self._model, self._renderer, [row])
            self._store(row.images, output)
            return output
        return cached.output

    def _joined(self, parts: Sequence[ModelOutput]) -> ModelOutput:
        """Join the features of several prompts."""
        if self._pair is not None:
            one, both = self._pair
            joined = {
                name: _join([part[name] for part in parts], one[name], both[name]) for name in both
            }
        else:
            ((name, first),) = parts[0].items()
            features = [part[name] for part in parts]
            is_tensor = isinstance(first, Tensor)
            joined = {name: torch.cat(features) if is_tensor else _chain(features)}
        return type(parts[0])(**joined)

    def _problem(self, row: Rendered) -> str:
        """Try the model with one prompt and return what is wrong with its features, if anything."""
        try:
            with _evaluating(self._model):
                error = self._difference(row)
        except MODEL_ERRORS as cause:
            return first_line(cause)
        return "" if error <= _TOLERANCE else f"they change the logits by {error:.3f} deviations"

    @torch.no_grad()
    def _difference(self, row: Rendered) -> float:
        """Return how much features change the last logits of two prompts with the same images.

        Returns:
            The largest difference in standard deviations of the logits.
        """
        device = next(self._model.parameters()).device
        batch = self._renderer.collate([row, row], pad_side="right", with_answers=False)
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        lean = {k: v for k, v in inputs.items() if not k.startswith("pixel_")}
        expected = self._model(**inputs).logits[:, -1].float()
        found = self._model(**lean, **self.inputs([row, row])).logits[:, -1].float()
        return float((found - expected).abs().max() / expected.std().clamp(min=1e-12))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Turn dropout off within the block."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def encode_images(model: Any, renderer: Renderer, rows: Sequence[Rendered]) -> ModelOutput:
    """Return the features of the images of some prompts, without the outputs of the tower."""
    device, dtype = next(model.parameters()).device, model.dtype
    batch = renderer.collate(rows, pad_side="right", with_answers=False)
    images = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
        if name not in _TEXT_INPUTS
    }
    # Some projectors have dropout, which must not be part of cached features.
    with torch.no_grad(), _evaluating(model):
        output = model.get_image_features(**images, return_dict=True)
    unused = set(_TOWER_OUTPUTS)
    if output.get("pooler_output") is None:
        unused.discard("last_hidden_state")  # Llama 4 reads it instead
    kept = {k: v for k, v in output.items() if k not in unused}
    # Models read all fields of the class as attributes; those that are left out are None.
    return type(output)(**kept)


def _has_one_field(features: ModelOutput, n_images: int) -> bool:
    """Return whether features are one tensor, or one tensor for each image, and nothing else."""
    if len(features) != 1:
        return False
    (value,) = features.values()
    if isinstance(value, Tensor):
        return True
    return len(value) == n_images and all(isinstance(part, Tensor) for part in value)


def _chain(parts: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(feature for part in parts for feature in part)


def _join(parts: Sequence[Any], one: Any, both: Any) -> Any:
    """Join features of several prompts as the model joined those of two equal prompts.

    Args:
        parts: Features of each prompt.
        one: Features of a prompt.
        both: Features of the same prompt and its copy; shows which lists and axes count images.
    """
    if isinstance(one, Tensor):
        per_image = one.ndim > 0 and both.shape[0] == 2 * one.shape[0]
        return torch.cat(list(parts)) if per_image else parts[0]
    if isinstance(one, list | tuple):
        if len(both) == 2 * len(one):
            return _chain(parts)
        layers = zip(*parts, strict=True)
        return tuple(_join(*layer) for layer in zip(layers, one, both, strict=True))
    return parts[0]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for each in value for tensor in _tensors(each)]
