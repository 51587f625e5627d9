"""Processors of checkpoints: their classes, and what they need.

Used by `models/loading.py`. Images are prepared by Pillow where Transformers can. Video processors
always need torchvision, which is not a dependency of this project, so a processor is loaded without
its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import cached_file

from mllm_msr.errors import BackendError

# SmolVLM's own processor needs the package num2words, but only for videos. For images it produces
# the same tokens as the Idefics 3 processor from which it is derived.
_EQUIVALENT_PROCESSORS: Final = {"SmolVLMProcessor": "Idefics3Processor"}

# Packages that processors and vision towers of Transformers may need.
_OPTIONAL_PACKAGES: Final = ("torchvision", "timm", "num2words", "sentencepiece", "tiktoken")

# Why models of a type cannot answer prompts; all others are tried.
_REJECTED_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "diffusion_gemma": "It writes all words of an answer at once, not one after another.",
        "paligemma": "It was trained on short tasks and not on dialogues.",
    }
)


class VideoStub:
    """Placeholder of a video processor; has no settings."""

    model_input_names: Sequence[str] = ()
    _auto_class = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _WithoutVideo:
    """Mixin for subclasses of `transformers.ProcessorMixin` whose video processor is a stub.

    The signature of the class is unchanged: some processors expect their parts by position, others
    by keyword.
    """

    @classmethod
    def _get_arguments_from_pretrained(
        cls, path: str, processor_dict: Any = None, **options: Any
    ) -> list[Any]:
        attributes = cls.get_attributes()  # type: ignore[attr-defined]
        others = [name for name in attributes if "video" not in name]
        loader = type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _: others)})
        load = super(_WithoutVideo, loader)._get_arguments_from_pretrained  # type: ignore[misc]
        parts = iter(load(path, processor_dict, **options))
        return [VideoStub() if "video" in name else next(parts) for name in attributes]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Accept the stub; check all other parts."""
        if "video" in argument_name:
            return VideoStub
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings of the processor, without those of the stub."""
        settings: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        return {k: v for k, v in settings.items() if not isinstance(v, VideoStub)}


def without_video(processor_class: type) -> type:
    """Return a processor class whose video processor is a `VideoStub`.

    Args:
        processor_class: A subclass of `transformers.ProcessorMixin`.

    Returns:
        A subclass with the same signature, or the class itself if it has no video processor.
    """
    if not any("video" in name for name in processor_class.get_attributes()):  # type: ignore[attr-defined]
        return processor_class
    return type(processor_class.__name__, (_WithoutVideo, processor_class), {})


def reads_images(config: Any) -> bool:
    """Return whether models with this configuration may read images."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def require_supported(config: Any) -> None:
    """Check that models with this configuration can answer prompts.

    Raises:
        BackendError: They cannot; the message says why and which models can.
    """
    reason = _REJECTED_TYPES.get(config.model_type)
    if getattr(config, "is_encoder_decoder", False):
        reason = "It has an encoder for the prompt, which is not supported."
    elif type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING and not reads_images(config):
        reason = "Transformers offers it for speech and not as a model of images and text."
    if reason:
        raise BackendError(
            f"Models of the type {config.model_type!r} are not supported. {reason} Use a decoder "
            "for images and text, such as Qwen3-VL, SmolVLM2 or Gemma 3."
        )


def load_from_files(checkpoint: str, config: Any, source: Mapping[str, Any]) -> Any:
    """Load the processor of a checkpoint, or the tokenizer of a text-only model.

    Args:
        checkpoint: Folder, or id on the hub.
        config: The checkpoint's configuration.
        source: Arguments of `from_pretrained` that say where files may come from.

    Raises:
        ImportError: A package that the processor needs is not installed.
        OSError: Files are missing, or the hub cannot be reached.
        ValueError: The files do not belong to a processor.
    """
    if not reads_images(config):
        return transformers.AutoTokenizer.from_pretrained(checkpoint, **source)
    declared = getattr(transformers, _declared_class(checkpoint, source), None)
    processor_class = declared or PROCESSOR_MAPPING.get(type(config), None)
    if processor_class is None:
        raise ValueError(f"Transformers has no processor for {config.model_type!r}")
    equivalent = _EQUIVALENT_PROCESSORS.get(processor_class.__name__)
    if equivalent is not None:
        processor_class = getattr(transformers, equivalent)
    return without_video(processor_class).from_pretrained(  # type: ignore[attr-defined]
        checkpoint, backend="pil", **source
    )


def _declared_class(checkpoint: str, source: Mapping[str, Any]) -> str:
    """Return the name of the processor class in a checkpoint's files, or an empty string.

    Pixtral is stored with the configuration of LLaVA, so the configuration is not enough.
    """
    where = {name: source[name] for name in ("revision", "local_files_only")}
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False, **where)
        settings = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        if isinstance(declared := settings.get("processor_class"), str):
            return declared if declared.endswith("Processor") else ""
    return ""


def find_missing_packages(error: BaseException) -> Sequence[str]:
    """Return the packages that an error of Transformers says are not installed.

    Args:
        error: What Transformers raised while it loaded a checkpoint.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    text = "\n".join(map(str, causes)).lower()
    if not re.search(r"requires the|missing optional dependencies|no module named|to run", text):
        return ()
    words = set(re.findall(r"[a-z0-9_]+", text))
    named = [name for name in _OPTIONAL_PACKAGES if name in words]
    return [name for name in named if importlib.util.find_spec(name) is None]


def installing_command(packages: Sequence[str]) -> str:
    """Return the command that installs packages that a processor needs."""
    if "torchvision" not in packages:
        return f"pip install {' '.join(packages)}"
    # Without a version, pip would replace torch by the one of the newest torchvision.
    version = torch.__version__.partition("+")[0]
    others = [name for name in packages if name != "torchvision"]
    return " ".join(["pip install 'mllm-msr[torchvision]'", f"torch=={version}", *others])
