"""Content vectors by frozen networks: any text or image encoder of Transformers, VGG19.

Loaded by `features.py` only where such an encoder is named, since it needs torch. Weights are
safetensors, code of checkpoints is never run, and images are prepared by Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import BackendError
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.storage.atomic import content_hash

Vectors = npt.NDArray[np.float32]

_MAX_TOKENS: Final = 256
_TEXT_BATCH: Final = 64
_MAX_SIDE: Final = 512

_FAULTS: Final = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)

# Channels of VGG19's convolutions; "M" halves the image (Simonyan & Zisserman 2015, column E).
_VGG19: Final = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
)
_VGG_SIDE: Final = 224
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)


@final
class PretrainedText:
    """A text encoder of Transformers: mean of the last hidden states over the tokens.

    Args:
        name: Folder, or hub id with an optional `@revision`.

    Raises:
        BackendError: There is no such checkpoint.
    """

    def __init__(self, name: str) -> None:
        self._checkpoint = _Checkpoint(name)

    @property
    def fingerprint(self) -> str:
        """Weights and the way of pooling."""
        return f"text/1/{self._checkpoint.fingerprint}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row for each text, of which the first 256 tokens are read: [n_texts, hidden].

        Raises:
            BackendError: The weights cannot be loaded.
        """
        tokenizer = self._checkpoint.load(transformers.AutoTokenizer)
        model = self._checkpoint.load_model()
        return _encode_texts(model, tokenizer, texts)


@final
class PretrainedImage:
    """A image encoder of Transformers.

    Models that join images with text (CLIP, SigLIP) give their joint space; of others the last
    hidden states are averaged over patches (ViT) or places (ResNet).

    Args:
        name: Folder, or hub id with an optional `@revision`.

    Raises:
        BackendError: There is no such checkpoint.
    """

    max_side: Final = _MAX_SIDE

    def __init__(self, name: str) -> None:
        self._checkpoint = _Checkpoint(name)
        self._loaded: tuple[Any, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """Weights and the way of pooling."""
        return f"image/1/{self._checkpoint.fingerprint}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """One row for each image: [n_images, d_image].

        Raises:
            BackendError: The weights cannot be loaded.
        """
        if self._loaded is None:
            processor = self._checkpoint.load(transformers.AutoImageProcessor, backend="pil")
            self._loaded = processor, self._checkpoint.load_model()
        processor, model = self._loaded
        inputs = processor(images=list(images), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            if hasattr(model, "get_image_features"):
                return _array(model.get_image_features(**inputs).pooler_output)
            states = model(**inputs).last_hidden_state
        # [n, patches, hidden] or [n, channels, height, width]
        return _array(states.mean(dim=1) if states.ndim == 3 else states.flatten(2).mean(dim=2))


@final
class EmbeddedText:
    """The packaged model as a text encoder: mean of its last hidden states."""

    @property
    def fingerprint(self) -> str:
        """The packaged weights."""
        return f"text/1/{content_hash(weights_folder())[0]}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row for each text: [n_texts, hidden]."""
        loaded = load_model(str(weights_folder()), dtype="float32")
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        return _encode_texts(loaded.model.model.language_model, tokenizer, texts)


@final
class EmbeddedImage:
    """The packaged model's vision tower: mean of the image tokens that its language part sees."""

    max_side: Final = _MAX_SIDE

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    @property
    def fingerprint(self) -> str:
        """The packaged weights."""
        return f"image/1/{content_hash(weights_folder())[0]}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """One row for each image: [n_images, hidden]."""
        if self._loaded is None:
            self._loaded = load_model(str(weights_folder()), dtype="float32")
        model, processor = self._loaded.model, self._loaded.processor.image_processor
        inputs = processor(images=list(images), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            features = model.get_image_features(**inputs, return_dict=True).pooler_output
        # One tensor of tokens for each image, or all of them in one: [n, tokens, hidden]
        return _array(torch.stack([tokens.mean(dim=0) for tokens in features]))


@final
class Vgg19:
    """VGG19 as the image features of the paper's Table 1: its second dense layer, 4,096 numbers.

    Args:
        weights: A safetensors file with `features.0.weight` ... `classifier.3.bias`, the names
            of torchvision's state dict; further tensors are ignored.

    Raises:
        BackendError: There is no such file.
    """

    max_side: Final = _MAX_SIDE

    def __init__(self, weights: Path) -> None:
        if not weights.is_file():
            raise _unusable(str(weights), "no file there")
        self._weights = weights
        self._layers: nn.Module | None = None

    @property
    def fingerprint(self) -> str:
        """The weights."""
        return f"vgg19/1/{content_hash(self._weights)[0]}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """One row for each image: [n_images, 4096].

        Raises:
            BackendError: The file is no safetensors file or lacks a layer.
        """
        if self._layers is None:
            layers = vgg19_layers()
            try:
                state = load_file(self._weights)
                layers.load_state_dict({name: state[name] for name in layers.state_dict()})
            except _FAULTS as cause:
                raise _unusable(str(self._weights), str(cause)) from cause
            self._layers = layers.to(_device()).eval()
        with torch.inference_mode():
            features = self._layers.get_submodule("features")(_imagenet_pixels(images))
            # Dense layers were trained on 7 x 7 places.
            return _array(self._layers.get_submodule("classifier")(features.flatten(1)))


def vgg19_layers() -> nn.ModuleDict:
    """VGG19 without its last layer, under the names of its public weights, untrained."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG19:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
        channels = width
    dense = (
        *(nn.Linear(channels * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
    )
    return nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Sequential(*dense)})


class _Checkpoint:
    """A checkpoint's name, resolved, and what Transformers loads from it."""

    def __init__(self, name: str) -> None:
        self._name = name
        at = "" if Path(name).is_dir() else name
        self._source, _, revision = at.partition("@") if at else (name, "", "")
        self._revision = revision or "main"
        self._config = self.load(transformers.AutoConfig)

    @property
    def fingerprint(self) -> str:
        """Content hash of a folder; hub id and commit otherwise."""
        if Path(self._source).is_dir():
            return content_hash(Path(self._source))[0]
        commit = getattr(self._config, "_commit_hash", None) or self._revision
        return f"{self._source}@{commit}"

    def load(self, loader: Any, **options: Any) -> Any:
        """Load by one of Transformers' `Auto` classes."""
        try:
            return loader.from_pretrained(
                self._source, revision=self._revision, trust_remote_code=False, **options
            )
        except _FAULTS as cause:
            raise _unusable(self._name, str(cause) or type(cause).__name__) from cause

    def load_model(self) -> Any:
        """The model in float32, in evaluation mode."""
        model = self.load(transformers.AutoModel, use_safetensors=True, dtype=torch.float32)
        return model.to(_device()).eval()


def _encode_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Vectors:
    """Mean of the last hidden states over each text's own tokens: [n_texts, hidden]."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = min(_MAX_TOKENS, tokenizer.model_max_length)
    # Texts of similar length share a batch, so that little is computed for padding.
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    rows: list[Vectors] = []
    for start in range(0, len(order), _TEXT_BATCH):
        batch = [texts[at] for at in order[start : start + _TEXT_BATCH]]
        inputs = tokenizer(
            batch,
            padding=True,
            truncation=True,
            max_length=limit,
            split_special_tokens=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state  # [batch, length, hidden]
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        rows.append(_array((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)))
    encoded = np.concatenate(rows)
    return encoded[np.argsort(order)]


def _imagenet_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Images as ImageNet's networks take them: [n_images, 3, 224, 224]."""
    size = (_VGG_SIDE, _VGG_SIDE)
    pixels = np.stack([np.asarray(image.convert("RGB").resize(size)) for image in images])
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
    mean, deviation = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_DEVIATION)
    return ((scaled - mean[:, None, None]) / deviation[:, None, None]).to(_device())


def _array(tensor: Tensor) -> Vectors:
    array: Vectors = tensor.float().cpu().numpy()
    return array


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _unusable(name: str, cause: str) -> BackendError:
    return BackendError(
        needed="an encoder named hashing, colours, demo or none, a checkpoint, or vgg19:FILE",
        received=f"{name!r} ({cause.strip().splitlines()[0]})",
        remedy="check the name, and that its weights are safetensors",
    )
