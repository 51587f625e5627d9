"""Transformers checkpoints of encoders: resolved once, loaded on demand.

Weights must be safetensors, and code inside a checkpoint is never run. `models/loading.py` loads
language models, with or without images; encoders only need `AutoModel`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import transformers
from safetensors import SafetensorError

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders.base import encoder_names
from mllm_msr.models.loading import load_processor, resolve_device
from mllm_msr.models.processors import reads_images
from mllm_msr.models.progress_bars import hide_bars
from mllm_msr.storage.atomic import content_hash

# Exceptions raised by loading a missing, damaged or unsupported checkpoint.
LOADING_ERRORS: Final = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)


class EncoderCheckpoint:
    """Transformers checkpoint of an encoder.

    Args:
        name: Folder, or hub id with an optional `@revision`.

    Raises:
        BackendError: There is no such checkpoint.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        is_folder = Path(name).is_dir()
        self._source, _, revision = (name, "", "") if is_folder else name.partition("@")
        self._revision = revision or "main"
        self._config = self.load(transformers.AutoConfig)

    @property
    def fingerprint(self) -> str:
        """Return the content hash of a folder, or the hub id and commit."""
        if Path(self._source).is_dir():
            return content_hash(Path(self._source))[0]
        commit = getattr(self._config, "_commit_hash", None) or self._revision
        return f"{self._source}@{commit}"

    @property
    def reads_images(self) -> bool:
        """Return whether the checkpoint is a decoder that may read images."""
        return reads_images(self._config)

    @property
    def is_decoder(self) -> bool:
        """Return whether tokens only see earlier ones, so that the last one represents a text."""
        architectures = self._config.architectures or ()
        return self.reads_images or any(name.endswith("ForCausalLM") for name in architectures)

    def load_processor(self) -> Any:
        """Load the processor of a checkpoint that reads images.

        Raises:
            BackendError: The files are missing or damaged.
        """
        return load_processor(self._source, revision=self._revision)

    def load(self, loader: Any, **options: Any) -> Any:
        """Load a part of the checkpoint with one of Transformers' `Auto` classes.

        Raises:
            BackendError: The part is missing or damaged.
        """
        try:
            with hide_bars(self._source):
                return loader.from_pretrained(
                    self._source, revision=self._revision, trust_remote_code=False, **options
                )
        except LOADING_ERRORS as cause:
            raise unusable_encoder(self._name, cause) from cause

    def load_model(self, *, dtype: str = "float32", device: str | None = None) -> Any:
        """Load the model in evaluation mode.

        Args:
            dtype: Precision of the weights, "auto" for that of the checkpoint.
            device: A torch device; None for the first GPU, or the CPU if there is none.

        Raises:
            BackendError: The weights are missing or damaged.
        """
        model = self.load(transformers.AutoModel, use_safetensors=True, dtype=dtype)
        return model.to(resolve_device(device)).eval()


def unusable_encoder(name: str, cause: Exception | str) -> BackendError:
    """Build the error for an encoder that cannot be loaded."""
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    texts, images = (", ".join(encoder_names(modality)) for modality in ("text", "image"))
    return BackendError(
        f"Cannot load the encoder {name!r}: {reason}. Available for texts: {texts}; for images: "
        f"{images}; for both: none, or a Transformers checkpoint (a folder or a hub id) with "
        "safetensors weights."
    )
