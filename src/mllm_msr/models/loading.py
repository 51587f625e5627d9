"""Loading of Hugging Face checkpoints: a model and its processor from a folder or hub id.

Used by the backends that run a model and by fine-tuning (section 3.3 of the paper), so that both
treat checkpoints alike: weights as safetensors, no remote code, images prepared by Pillow, and an
optional LoRA adapter in PEFT's format.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError

from mllm_msr.errors import BackendError, MissingExtraError
from mllm_msr.models import cpu_attention, efficientnet_lite
from mllm_msr.models.digests import file_digest, folder_digest
from mllm_msr.models.hub import reaches_hub
from mllm_msr.models.processor_options import (
    DEFAULT_OPTIONS,
    ProcessorOptions,
    configure,
    recorded_options,
)
from mllm_msr.models.processors import (
    find_missing_packages,
    installing_command,
    load_from_files,
    reads_images,
    require_supported,
)
from mllm_msr.models.progress_bars import hide_bars
from mllm_msr.models.projector import load_projector
from mllm_msr.models.self_check import require_fitting_images
from mllm_msr.models.vector_tokens import load_vector_projector
from mllm_msr.types import Attention, Precision

# Imported to register a type of vision tower.
del efficientnet_lite

logger = logging.getLogger(__name__)

_DTYPES: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}

_LOADING_ERRORS: Final = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    RuntimeError,
    UserWarning,
    SafetensorError,
)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A model that is ready to run, with its processor.

    Attributes:
        model: The model in evaluation mode, on its device.
        processor: The processor, or the tokenizer of a text-only model.
        supports_images: Whether prompts may contain images.
        fingerprint: Weights, revision, precision, adapter and options of the processor, without
            file system paths.
    """

    model: Any
    processor: Any
    supports_images: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Properties of a checkpoint that are known without loading its weights.

    Attributes:
        supports_images: Whether prompts may contain images.
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
    projector: Path | None = None,
    adapter: Path | None = None,
    options: ProcessorOptions = DEFAULT_OPTIONS,
) -> CheckpointInfo:
    """Describe what `load_model` with the same arguments would load.

    Raises:
        BackendError: There is no such checkpoint, adapter or device.
    """
    _require_device(resolve_device(device))
    config = load_config(checkpoint, revision=revision)
    require_supported(config)
    precision = resolve_dtype(dtype, resolve_device(device))
    folder = Path(checkpoint)
    if folder.is_dir():
        name = f"{folder.resolve().name}@{folder_digest(folder)}"
    else:
        commit = getattr(config, "_commit_hash", None)
        name = f"{checkpoint}@{commit[:16]}" if commit else checkpoint
    if projector is not None:
        name = f"{name}+{file_digest(projector)}"
    if adapter is not None:
        if not (adapter / "adapter_config.json").is_file():
            raise BackendError(
                f"{adapter} is not a LoRA adapter in PEFT's format: it has no "
                "adapter_config.json. Use the folder that fine-tuning wrote."
            )
        _require_safetensors(str(adapter), "adapter_model.safetensors")
        name = f"{name}+{folder_digest(adapter)}"
    parts = (name, precision, options.fingerprint)
    return CheckpointInfo(
        supports_images=reads_images(config),
        fingerprint="/".join(filter(None, parts)),
    )


def load_config(checkpoint: str, *, revision: str | None = None) -> Any:
    """Load a checkpoint's configuration.

    Args:
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.

    Raises:
        BackendError: There is no such checkpoint, or it requires remote code.
    """
    with _loading_errors(checkpoint):
        return _config(checkpoint, revision)


def load_processor(
    checkpoint: str, *, revision: str | None = None, options: ProcessorOptions = DEFAULT_OPTIONS
) -> Any:
    """Load a checkpoint's processor, or the tokenizer of a text-only model.

    Args:
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        options: How images are prepared, and variables of the chat template.

    Raises:
        BackendError: There is no such checkpoint, it requires remote code, or does not support an
            option.
    """
    with _loading_errors(checkpoint):
        config = _config(checkpoint, revision)
        processor = load_from_files(checkpoint, config, _source(checkpoint, revision))
    return configure(processor, options)


def load_model(
    checkpoint: str,
    *,
    revision: str | None = None,
    dtype: Precision = "auto",
    device: str = "auto",
    projector: Path | None = None,
    adapter: Path | None = None,
    attention: Attention = "auto",
    options: ProcessorOptions = DEFAULT_OPTIONS,
) -> LoadedCheckpoint:
    """Load a checkpoint for inference or fine-tuning.

    Args:
        checkpoint: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        dtype: Precision of the weights. "auto" is bfloat16 on a GPU that supports it, float16 on
            other GPUs, and float32 on the CPU. "4bit" is NF4 with bfloat16 arithmetic.
        device: A torch device, or "auto" for the first GPU and otherwise the CPU.
        projector: Weights of the projector (safetensors), instead of those of the checkpoint.
        adapter: Folder of a LoRA adapter in PEFT's format.
        attention: Attention implementation; "auto" is the fastest one for bfloat16 on the CPU.
        options: How images are prepared, and variables of the chat template.

    Raises:
        BackendError: There is no such checkpoint or adapter, its weights are not safetensors, it
            requires remote code, or does not support an option.
        MissingExtraError: bitsandbytes (for "4bit") or peft (for an adapter) is not installed.
    """
    info = inspect_checkpoint(
        checkpoint,
        revision=revision,
        dtype=dtype,
        device=device,
        projector=projector,
        adapter=adapter,
        options=options,
    )
    device = resolve_device(device)
    _require_safetensors(checkpoint, "*.safetensors")
    with _loading_errors(checkpoint):
        config = _config(checkpoint, revision)
        source = _source(checkpoint, revision)
        processor = load_from_files(checkpoint, config, source)
        model = _load_weights(checkpoint, config, source | _model_options(dtype, device, attention))
    model = model if dtype == "4bit" else model.to(device)
    processor = configure(processor, options)
    _adopt_grids(model, processor)
    if options.processor:
        require_fitting_images(model.eval(), processor, options)
    if projector is not None:
        load_projector(model, projector)
    model = _with_adapter(model, adapter, options, merge=dtype != "4bit")
    load_vector_projector(model, adapter or Path(checkpoint))
    return LoadedCheckpoint(
        model=model.eval(),
        processor=processor,
        supports_images=info.supports_images,
        fingerprint=info.fingerprint,
    )


def _load_weights(checkpoint: str, config: Any, arguments: Mapping[str, Any]) -> Any:
    """Load the model of a checkpoint; `arguments` are those of `from_pretrained`."""
    loader = (
        transformers.AutoModelForImageTextToText
        if reads_images(config)
        else transformers.AutoModelForCausalLM
    )
    with hide_bars(checkpoint):
        model, report = loader.from_pretrained(
            checkpoint, config=config, use_safetensors=True, output_loading_info=True, **arguments
        )
    _require_complete(checkpoint, report["missing_keys"])
    return model


def _config(checkpoint: str, revision: str | None) -> Any:
    return transformers.AutoConfig.from_pretrained(checkpoint, **_source(checkpoint, revision))


def _source(checkpoint: str, revision: str | None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that say where files may come from."""
    # Without a connection, the hub's client would retry for half a minute before it fails.
    is_local = Path(checkpoint).is_dir() or not reaches_hub()
    return {
        "revision": revision or "main",
        "trust_remote_code": False,
        "local_files_only": is_local,
    }


def resolve_device(device: str | None) -> str:
    """Return a torch device; for "auto" or None, the first GPU and otherwise the CPU."""
    if device is not None and device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _require_device(device: str) -> None:
    """Raise `BackendError` if a device is a CUDA GPU that this machine does not have."""
    number = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and number >= torch.cuda.device_count():
        raise BackendError(
            f"model.device is {device!r}, but PyTorch finds {torch.cuda.device_count()} CUDA "
            "devices. Use auto or cpu, or install the build of PyTorch for this GPU."
        )


def resolve_dtype(dtype: Precision, device: str) -> str:
    """Return the name of the data type of weights; for "auto", that of a device."""
    if dtype == "4bit":
        return dtype
    return str(_torch_dtype(dtype, device)).removeprefix("torch.")


def _torch_dtype(dtype: Precision, device: str) -> torch.dtype:
    if dtype != "auto":
        return _DTYPES[dtype]
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _model_options(dtype: Precision, device: str, attention: Attention) -> dict[str, Any]:
    if dtype != "4bit":
        torch_dtype = _torch_dtype(dtype, device)
        if attention == "auto" and torch_dtype == torch.bfloat16 and device == "cpu":
            attention = cpu_attention.fastest()
        options = {} if attention == "auto" else {"attn_implementation": attention}
        return {**options, "dtype": torch_dtype}
    options = {} if attention == "auto" else {"attn_implementation": attention}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quantize")
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {**options, "quantization_config": quantization, "device_map": {"": device}}


def _with_adapter(
    model: Any, adapter: Path | None, options: ProcessorOptions, *, merge: bool
) -> Any:
    if adapter is None:
        return model
    _warn_of_other_options(adapter, options)
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "models")
    import peft  # noqa: PLC0415 - an extra, and slow to import

    with _loading_errors(str(adapter)), warnings.catch_warnings():
        # PEFT reads an attribute that Transformers has renamed.
        warnings.filterwarnings("ignore", category=FutureWarning)
        # If an adapter does not fit the model, PEFT only warns and continues without it.
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        adapted = peft.PeftModel.from_pretrained(model, str(adapter))
    # Merge where possible: separate adapter layers take half of a small model's forward pass.
    # Unmerged layers remain inside the base model, whose own `generate` and `forward` use them.
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def _adopt_grids(model: Any, processor: Any) -> None:
    """Tell a model which grids of tiles its processor uses; LLaVA's models compute them again."""
    grids = getattr(getattr(processor, "image_processor", None), "image_grid_pinpoints", None)
    if grids is not None and hasattr(model.config, "image_grid_pinpoints"):
        model.config.image_grid_pinpoints = grids


def _warn_of_other_options(weights: Path, options: ProcessorOptions) -> None:
    recorded = recorded_options(weights)
    if recorded != options.fingerprint:
        logger.warning(
            "%s was fine-tuned with the options %s of model.*, but is used with %s. Set the same.",
            weights.name,
            recorded or "{}",
            options.fingerprint or "{}",
        )


def _require_complete(checkpoint: str, missing: Collection[str]) -> None:
    """Raise an error if weights are missing, which Transformers would initialize at random."""
    if missing:
        names = sorted(missing)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise BackendError(
            f"The checkpoint {checkpoint!r} lacks {len(names)} weights ({shown}). Download it "
            "again, or install the version of Transformers that wrote it."
        )


def _require_safetensors(checkpoint: str, pattern: str) -> None:
    """Raise an error if a local folder contains no safetensors weights."""
    folder = Path(checkpoint)
    if not folder.is_dir() or any(folder.glob(pattern)):
        return
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt")])
    if pickles:
        raise BackendError(
            f"The weights in {folder} are pickle files ({', '.join(pickles)}), not {pattern}. "
            "Convert them, for instance with save_pretrained of Transformers 5."
        )
    raise BackendError(
        f"{folder} contains no weights ({pattern}). Use the folder that contains the checkpoint."
    )


@contextmanager
def _loading_errors(checkpoint: str) -> Iterator[None]:
    """Convert exceptions that Transformers raises while loading to a `BackendError`."""
    try:
        yield
    except _LOADING_ERRORS as cause:
        if packages := find_missing_packages(cause):
            raise BackendError(
                f"The checkpoint {checkpoint!r} needs {' and '.join(packages)}, which is not "
                f"installed. Run: {installing_command(packages)}"
            ) from cause
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise BackendError(
            f"Transformers cannot load the checkpoint {checkpoint!r}: {lines[0].rstrip('.')}. "
            "Check the name, the revision and the folder's files."
        ) from cause
