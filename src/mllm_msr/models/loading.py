"""Hugging Face checkpoints: a folder or a hub id becomes a model, its processor and an fingerprint.

Both the backends that run a model and the recommender that fine-tunes one (section 3.3 of the
paper) come through here, so that they agree on what a checkpoint is: safetensors weights, no code
of its own, images prepared by Pillow, an optional LoRA adapter in PEFT's format.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from mllm_msr.errors import BackendError, MissingExtraError

Precision = Literal["auto", "bfloat16", "float16", "float32", "4bit"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]

_DTYPES: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}

_LOADING_FAULTS: Final = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    RuntimeError,
    UserWarning,
    SafetensorError,
)

# Files beside the weights that change what a model reads or writes.
_DEFINING_FILES: Final = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")

# SmolVLM's own processor wants a package that spells numbers for videos; for images it writes
# the same tokens as the Idefics 3 processor from which it descends.
_IMAGE_TWINS: Final = {"SmolVLMProcessor": "Idefics3Processor"}


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A model ready to run, with everything needed to speak to it.

    Attributes:
        model: In evaluation mode, on its device.
        processor: Processor, or plain tokenizer of a text-only model.
        supports_images: Whether prompts may hold images.
        fingerprint: Weights, revision, precision and adapter, without any machine's paths.
    """

    model: Any
    processor: Any
    supports_images: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What can be said of a checkpoint without loading its weights.

    Attributes:
        supports_images: Whether prompts may hold images.
        fingerprint: As `LoadedCheckpoint.fingerprint`.
    """

    supports_images: bool
    fingerprint: str


def inspect_checkpoint(
    checkpoint: str,
    *,
    revision: str | None = None,
    dtype: Precision = "auto",
    device: str = "auto",
    adapter: Path | None = None,
) -> CheckpointFacts:
    """Say what `load_model` with the same arguments would load.

    Raises:
        BackendError: There is no such checkpoint or adapter.
    """
    with _explained(checkpoint):
        config = _config(checkpoint, revision)
    precision = dtype if dtype == "4bit" else str(_torch_dtype(dtype, chosen_device(device)))
    name = _name(checkpoint, config)
    if adapter is not None:
        _require_adapter(adapter)
        name = f"{name}+{_folder_digest(adapter)}"
    return CheckpointFacts(
        supports_images=type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        fingerprint=f"{name}/{precision.removeprefix('torch.')}",
    )


def load_processor(checkpoint: str, *, revision: str | None = None) -> Any:
    """Load a checkpoint's processor; of a text-only model, its tokenizer.

    Args:
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.

    Raises:
        BackendError: There is no such checkpoint, or it cannot be read without its own code.
    """
    with _explained(checkpoint):
        return _processor(checkpoint, _config(checkpoint, revision), revision)


def load_model(
    checkpoint: str,
    *,
    revision: str | None = None,
    dtype: Precision = "auto",
    device: str = "auto",
    adapter: Path | None = None,
    attention: Attention = "auto",
) -> LoadedCheckpoint:
    """Load a checkpoint for inference or as the start of fine-tuning.

    Args:
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        dtype: Precision of the weights. "auto" is bfloat16 on a GPU that has it, float16 on
            another, float32 elsewhere; "4bit" is NF4 with bfloat16 arithmetic.
        device: A torch device, or "auto" for the first GPU where there is one.
        adapter: Folder of a LoRA adapter in PEFT's format.
        attention: Implementation of attention; "auto" leaves it to the model.

    Raises:
        BackendError: There is no such checkpoint or adapter, its weights are no safetensors, or
            it cannot be read without its own code.
        MissingExtraError: "4bit" without bitsandbytes, or an adapter without peft.
    """
    facts = inspect_checkpoint(
        checkpoint, revision=revision, dtype=dtype, device=device, adapter=adapter
    )
    device = chosen_device(device)
    options = _weight_options(dtype, device)
    if attention != "auto":
        options["attn_implementation"] = attention
    _require_safetensors(checkpoint, "*.safetensors")
    with _explained(checkpoint):
        config = _config(checkpoint, revision)
        processor = _processor(checkpoint, config, revision)
        loader = (
            transformers.AutoModelForImageTextToText
            if facts.supports_images
            else transformers.AutoModelForCausalLM
        )
        model, report = loader.from_pretrained(
            checkpoint,
            config=config,
            revision=revision or "main",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    _require_complete(checkpoint, report["missing_keys"])
    if dtype != "4bit":
        model = model.to(device)
    if adapter is not None:
        model = _with_adapter(model, adapter, merge=dtype != "4bit")
    return LoadedCheckpoint(
        model=model.eval(),
        processor=processor,
        supports_images=facts.supports_images,
        fingerprint=facts.fingerprint,
    )


def without_video(processor_class: type) -> type:
    """The same processor class for images and text alone.

    Video processors need torchvision, which this project does without.

    Args:
        processor_class: A subclass of `transformers.ProcessorMixin`.

    Returns:
        The class itself where it has no video part.
    """
    attributes = [name for name in processor_class.get_attributes() if "video" not in name]  # type: ignore[attr-defined]
    if len(attributes) == len(processor_class.get_attributes()):  # type: ignore[attr-defined]
        return processor_class
    members = {"get_attributes": classmethod(lambda _: attributes)}
    return type(processor_class.__name__, (processor_class,), members)


def _config(checkpoint: str, revision: str | None) -> Any:
    return transformers.AutoConfig.from_pretrained(
        checkpoint, revision=revision or "main", trust_remote_code=False
    )


def _processor(checkpoint: str, config: Any, revision: str | None) -> Any:
    options = {"revision": revision or "main", "trust_remote_code": False}
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoTokenizer.from_pretrained(checkpoint, **options)
    processor_class = PROCESSOR_MAPPING[type(config)]
    twin = _IMAGE_TWINS.get(processor_class.__name__)
    if twin is not None:
        processor_class = getattr(transformers, twin)
    return without_video(processor_class).from_pretrained(  # type: ignore[attr-defined]
        checkpoint, backend="pil", **options
    )


def chosen_device(device: str | None) -> str:
    """A torch device; for "auto" or nothing the first GPU, or the CPU where there is none."""
    if device is not None and device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _torch_dtype(dtype: Precision, device: str) -> torch.dtype:
    if dtype != "auto":
        return _DTYPES[dtype]
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _weight_options(dtype: Precision, device: str) -> dict[str, Any]:
    if dtype != "4bit":
        return {"dtype": _torch_dtype(dtype, device)}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quantize")
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def _with_adapter(model: Any, adapter: Path, *, merge: bool) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "train")
    import peft  # noqa: PLC0415 - an extra, and slow to import

    with _explained(str(adapter)), warnings.catch_warnings():
        # PEFT only warns where an adapter does not belong to the model, and goes on without it.
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        adapted = peft.PeftModel.from_pretrained(model, str(adapter))
    # Layers of their own for the adapter take half of the time of a small model's pass.
    # Unmerged they stay in place: the plain model keeps its own `generate` and `forward`.
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def _require_adapter(adapter: Path) -> None:
    if not (adapter / "adapter_config.json").is_file():
        raise BackendError(
            needed="the folder of a LoRA adapter in PEFT's format",
            received=f"{adapter} without adapter_config.json",
            remedy="give the folder that training wrote",
        )
    _require_safetensors(str(adapter), "adapter_model.safetensors")


def _require_complete(checkpoint: str, missing: Collection[str]) -> None:
    """Refuse weights with gaps, which Transformers would fill at random."""
    if missing:
        names = sorted(missing)
        raise BackendError(
            needed=f"all weights of {checkpoint!r}",
            received=f"files without {len(names)} of them ({', '.join(names[:3])}, ...)",
            remedy="get the checkpoint again, or the version of Transformers that wrote it",
        )


def _require_safetensors(checkpoint: str, pattern: str) -> None:
    """Refuse a local folder whose weights are pickles, or that holds none."""
    folder = Path(checkpoint)
    if not folder.is_dir() or any(folder.glob(pattern)):
        return
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt")])
    raise BackendError(
        needed=f"weights as {pattern} in {folder}",
        received=", ".join(pickles) if pickles else "no weights",
        remedy="convert them, for instance by save_pretrained of Transformers 5"
        if pickles
        else "give the folder that holds them",
    )


@contextmanager
def _explained(checkpoint: str) -> Iterator[None]:
    """Turn what Transformers raises while loading into one sentence."""
    try:
        yield
    except _LOADING_FAULTS as cause:
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise BackendError(
            needed="a checkpoint folder or hub id that Transformers can load by its own code",
            received=f"{checkpoint!r} ({lines[0]})",
            remedy="check the name, the revision and the folder's files",
        ) from cause


def _name(checkpoint: str, config: Any) -> str:
    """Folder name and content digest, or hub id and commit."""
    folder = Path(checkpoint)
    if folder.is_dir():
        return f"{folder.resolve().name}@{_folder_digest(folder)}"
    commit = getattr(config, "_commit_hash", None)
    return f"{checkpoint}@{commit[:16]}" if commit else checkpoint


def _folder_digest(folder: Path) -> str:
    """First 16 hexadecimal digits of a SHA-256 over the files that define the model."""
    files = sorted({path for pattern in _DEFINING_FILES for path in folder.glob(pattern)})
    state = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _digest(state)


@functools.lru_cache(maxsize=32)
def _digest(state: tuple[tuple[Path, int, int], ...]) -> str:
    """Digest of files; their sizes and times only serve to notice that one has changed."""
    total = hashlib.sha256()
    for path, size, _ in state:
        total.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
