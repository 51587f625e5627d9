"""Trainable weights of the model to fine-tune: LoRA layers, full fine-tuning, and saving.

`trainer.py` passes in a model that `models/loading.py` has loaded from any Hugging Face checkpoint.
By default LoRA is added to the projections of the language model only, never to the vision tower or
the projector: serving engines silently ignore such adapters, so training and serving would differ.
Section "Tuning MLLM based Recommender" of the paper (LoRA, equation 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.config.train_settings import LoraInit, LoraTarget, TrainSettings, WeightFormat
from mllm_msr.errors import MissingExtraError, SettingsError, TrainingError
from mllm_msr.models.families import lora_projections
from mllm_msr.models.vector_tokens import (
    add_vector_projector,
    save_vector_projector,
    without_vector_projector,
)
from mllm_msr.ranker.calibration import IDENTITY, Calibration, write_calibration
from mllm_msr.ranker.prompt_record import write_prompt_record
from mllm_msr.ranker.training.checkpoint import replace_folder, require_finite


def make_trainable(
    model: nn.Module, settings: TrainSettings, *, n_dims: int | None = None
) -> nn.Module:
    """Return a model with the trainable weights of the settings, and the rest frozen.

    Args:
        model: Loaded model; changed in place.
        settings: The section `train`.
        n_dims: Size of the vectors of users, for which the model gets a projector to train.

    Raises:
        MissingExtraError: PEFT is not installed.
        SettingsError: A setting names layers that the model does not have.
        TrainingError: The model cannot be fine-tuned in this way.
    """
    if settings.method == "full":
        model = unfreeze_language(model)
    elif settings.method == "frozen-lower-layers":
        model = unfreeze_upper_layers(model, settings.upper_layers)
    else:
        model = add_lora(
            model,
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            init=settings.init,
            target=settings.target,
            seed=settings.seed,
        )
    if n_dims is not None:
        add_vector_projector(model, n_dims=n_dims, seed=settings.seed)
    if settings.gradient_checkpointing:
        enable: Any = model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def decoder_prefix(model: nn.Module) -> str:
    """Return the name of the language model inside a model, as in `named_modules`.

    Raises:
        TrainingError: The model does not name its language model.
    """
    get_decoder: Any = getattr(model, "get_decoder", None)
    decoder = get_decoder() if get_decoder is not None else None
    for name, module in model.named_modules():
        if module is decoder and name:
            return str(name)
    raise TrainingError(
        f"{type(model).__name__} does not name its language model (`get_decoder`), so it cannot be "
        "fine-tuned. Use another model type of Transformers."
    )


def language_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers of the language model, without the output layer."""
    prefix = f"{decoder_prefix(model)}."
    output = _output_layer(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output and name.startswith(prefix)
    ]


def default_projections(model: nn.Module) -> list[str]:
    """Return the last parts of the names of the layers that `target="language"` adapts.

    These are the projections of attention and feed-forward layers. Routers, gates and other small
    layers are left out: serving engines ignore their adapters without an error.
    """
    last_parts = {name.rpartition(".")[2] for name in language_layers(model)}
    config: Any = getattr(model, "config", None)
    known = last_parts.intersection(lora_projections(config)) if config is not None else set()
    return sorted(known or last_parts)


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    init: LoraInit = "default",
    target: LoraTarget = "language",
    seed: int = 0,
) -> nn.Module:
    """Freeze a model and add LoRA matrices to some of its linear layers.

    Args:
        model: Loaded model.
        rank: Rank of the matrices.
        alpha: The scale of their product is alpha / rank.
        dropout: Dropout before the matrices, in [0, 1).
        init: PEFT's default initialization (Kaiming and zero), or Gaussian (normal and zero).
        target: "language" for the language model's `default_projections`; last parts of layer
            names ("q_proj", "v_proj") for others of its layers; "all-linear" for every linear layer
            except the output layer, including the vision tower and the projector.
        seed: Seed of the initial matrices.

    Returns:
        The model in PEFT's wrapper; only the matrices require gradients.

    Raises:
        MissingExtraError: PEFT is not installed.
        SettingsError: `target` names a layer that the language model does not have.
        TrainingError: LoRA was added to no layer, or to layers outside the language model.
    """
    if find_spec("peft") is None:
        raise MissingExtraError("peft", "train")
    import peft  # noqa: PLC0415 - an extra

    from mllm_msr.ranker.training.lora_linear import LowRankLinear  # noqa: PLC0415 - imports it too

    pattern: str = "all-linear" if target == "all-linear" else _language_pattern(model, target)
    allowed = None if target == "all-linear" else set(language_layers(model))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian" if init == "gaussian" else True,
        target_modules=pattern,
    )
    # PEFT has no public method yet to register a custom layer.
    config._register_custom_module({nn.Linear: LowRankLinear})  # noqa: SLF001
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped: nn.Module = peft.get_peft_model(model, config)
    adapted = adapted_layers(wrapped)
    unexpected = sorted(set(adapted) - allowed) if allowed is not None else []
    if not adapted or unexpected:
        layers = f"layers outside the language model: {', '.join(unexpected[:3])}"
        raise TrainingError(
            f"LoRA was added to {layers if unexpected else 'no layer'}. Set train.target to layers "
            "of the language model."
        )
    return wrapped


def _language_pattern(model: nn.Module, target: LoraTarget) -> str:
    """Return a regular expression for full names; suffixes alone also match the vision tower."""
    last_parts = sorted({name.rpartition(".")[2] for name in language_layers(model)})
    requested = default_projections(model) if target == "language" else sorted(set(target))
    missing = [part for part in requested if part not in last_parts]
    if missing or not requested:
        problem = "No layer is named"
        if missing:
            problem = f"The language model has no linear layer {', '.join(map(repr, missing))}"
        available = ", ".join(last_parts)
        raise SettingsError([f"{problem} (train.target={target!r}). Available: {available}."])
    prefix = re.escape(decoder_prefix(model))
    return rf"{prefix}\.(?:.*\.)?(?:{'|'.join(map(re.escape, requested))})"


def adapted_layers(wrapped: nn.Module) -> list[str]:
    """Return the names of the layers with LoRA matrices, as in the unwrapped model."""
    suffix = ".lora_A.default"
    return [
        name.removeprefix("base_model.model.").removesuffix(suffix)
        for name, _ in wrapped.named_modules()
        if name.endswith(suffix)
    ]


def unfreeze_language(model: nn.Module) -> nn.Module:
    """Make language model and output layer trainable; freeze vision tower and projector.

    Returns:
        The same model.
    """
    return _unfreeze(model, {id(weight) for weight in _language_weights(model)})


def unfreeze_upper_layers(model: nn.Module, n_layers: int) -> nn.Module:
    """Make the upper layers of the language model trainable; freeze everything else.

    The lower layers then need neither gradients nor stored activations. The final normalization and
    an output layer of its own are trained as well. Embeddings are frozen, and so is an output layer
    that shares their weights.

    Args:
        model: Loaded model.
        n_layers: Number of layers to train.

    Returns:
        The same model.

    Raises:
        SettingsError: The language model has fewer layers.
        TrainingError: The model does not name its language model or its layers.
    """
    decoder = model.get_submodule(decoder_prefix(model))
    layers: Any = getattr(decoder, "layers", None)
    if layers is None:
        raise TrainingError(
            f"{type(decoder).__name__} does not list its layers (`layers`), so its lower ones "
            "cannot be frozen. Set train.method to lora or full."
        )
    if n_layers > len(layers):
        problem = (
            f"train.upper_layers is {n_layers}, but the language model has {len(layers)} layers. "
            "Lower it, or set train.method=full."
        )
        raise SettingsError([problem])
    embeddings = [module for module in decoder.modules() if isinstance(module, nn.Embedding)]
    lower = layers[: len(layers) - n_layers]
    frozen = {id(weight) for module in (*embeddings, *lower) for weight in module.parameters()}
    trainable = {id(weight) for weight in _language_weights(model)} - frozen
    return _unfreeze(model, trainable)


def _unfreeze(model: nn.Module, trainable: Set[int]) -> nn.Module:
    """Make the weights with some identities trainable, and freeze all others."""
    for weight in model.parameters():
        weight.requires_grad = id(weight) in trainable
    return model


def _language_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    yield from model.get_submodule(decoder_prefix(model)).parameters()
    output = _output_layer(model)
    if output is not None:
        yield from output.parameters()


def _output_layer(model: nn.Module) -> nn.Module | None:
    get_output: Any = getattr(model, "get_output_embeddings", None)
    output: nn.Module | None = get_output() if get_output is not None else None
    return output


def learns_language_only(model: nn.Module) -> bool:
    """Check whether only the language model is trainable, so that image features are constant."""
    language = {id(weight) for weight in _language_weights(model)}
    return all(id(weight) in language for weight in model.parameters() if weight.requires_grad)


def image_token_ids(model: nn.Module) -> frozenset[int]:
    """Return the ids of the placeholder tokens that image features replace."""
    config: Any = getattr(model, "config", None)
    names = ("image_token_id", "image_token_index")
    found = {getattr(config, name, None) for name in names}
    return frozenset(int(token_id) for token_id in found if token_id is not None)


def trainable_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable weights by name; the tensors share memory with the model."""
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def load_trainable(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into the trainable weights of a model.

    Raises:
        TrainingError: The names or the shapes differ from the model's.
    """
    own = trainable_tensors(model)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
        raise TrainingError(
            f"The saved state has {len(tensors)} weights whose names or shapes differ from the "
            f"{len(own)} trainable weights of the model. Train from scratch (--force)."
        )
    for name, weight in own.items():
        weight.copy_(tensors[name])


@contextmanager
def swapped_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Replace the trainable weights of a model within the block."""
    before = {name: tensor.clone() for name, tensor in trainable_tensors(model).items()}
    load_trainable(model, tensors)
    try:
        yield
    finally:
        load_trainable(model, before)


def save_weights(
    model: nn.Module,
    processor: Any,
    folder: Path,
    *,
    method: WeightFormat,
    prompt: RecommendSettings = DEFAULT_PROMPT,
    calibration: Calibration = IDENTITY,
    step: int,
) -> None:
    """Write the trained weights: an adapter in PEFT's format, or a complete Hugging Face folder.

    Args:
        model: Trained model, as `add_lora`, `unfreeze_language` or `unfreeze_upper_layers` returned
            it.
        processor: Processor of the model; saved with full weights, so that the folder is complete.
        folder: Folder to write; replaced as a whole.
        method: Format of the weights.
        prompt: Order and content of the prompts of the training.
        calibration: Calibration of P(yes) with these weights.
        step: Optimizer step of the weights, for error messages.

    Raises:
        NonFiniteLossError: A weight is NaN or infinite; nothing is written.
        RunFolderError: The disk is full or the folder is not writable.
    """
    require_finite(trainable_tensors(model), step=step)
    saver: Any = model
    with replace_folder(folder) as draft:
        with without_vector_projector(model):
            saver.save_pretrained(draft)
        save_vector_projector(model, draft)
        write_prompt_record(draft, prompt)
        if calibration != IDENTITY:
            write_calibration(draft, calibration)
        if method == "full":
            processor.save_pretrained(draft)
