"""The model that is fine-tuned: what of it learns, how it is wrapped, and how it is saved.

Range `models/loading.py`, which loads any Hugging Face checkpoint, and `trainer.py`. LoRA goes on
the linear layers of the language model and never on the vision tower or the projector unless
that is asked for: serving engines ignore such adapters, so training and serving would differ in
silence. Section "Tuning MLLM based Recommender" of the paper (LoRA, equation 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from mllm_msr.config.settings import LoraInit, LoraTarget, TuningMethod
from mllm_msr.errors import MissingExtraError, SettingsError, TrainingError
from mllm_msr.ranker.training.checkpoint import draft_folder, refuse_non_finite
from mllm_msr.storage import layout

# Name of the folder that a method's weights end in.
WEIGHT_FOLDERS: Final[Mapping[TuningMethod, str]] = {"lora": layout.ADAPTER, "full": layout.MODEL}


def decoder_prefix(model: nn.Module) -> str:
    """Name of the language model inside a model, as `named_modules` spells it.

    Raises:
        TrainingError: The model does not say where its language model is.
    """
    get_decoder: Any = getattr(model, "get_decoder", None)
    decoder = get_decoder() if get_decoder is not None else None
    for name, module in model.named_modules():
        if module is decoder and name:
            return str(name)
    raise TrainingError(
        needed="a model that names its language model (`get_decoder`)",
        received=type(model).__name__,
        remedy="give the names of the layers to train as `target`",
    )


def language_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers of a model's language model, output layer excluded."""
    prefix = f"{decoder_prefix(model)}."
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefix)
    ]


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
    """Freeze a model and put LoRA matrices on some of its linear layers.

    Args:
        model: A loaded model.
        rank: Rank of the matrices.
        alpha: Their scale is alpha / rank.
        dropout: Dropout before them, in [0, 1).
        init: PEFT's default (Kaiming, zero) or Gaussian (normal, zero).
        target: "language" for the language model's linear layers; last parts of layers' names
            ("q_proj", "v_proj") for those among them; "all-linear" for every linear layer but the
            output, the vision tower's and the projector's among them.
        seed: Seed of the initial matrices.

    Returns:
        The model as PEFT wraps it; only the matrices require gradients.

    Raises:
        MissingExtraError: PEFT is not installed.
        SettingsError: `target` names no layer of the language model.
        TrainingError: A layer got an adapter that was not asked for.
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
    # PEFT's way to bring a layer of one's own has no public name yet.
    config._register_custom_module({nn.Linear: LowRankLinear})  # noqa: SLF001
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped: nn.Module = peft.get_peft_model(model, config)
    _verify(wrapped, allowed)
    return wrapped


def _language_pattern(model: nn.Module, target: LoraTarget) -> str:
    """A regular expression for full names: suffixes alone would match the vision tower too."""
    names = language_layers(model)
    last_parts = sorted({name.rpartition(".")[2] for name in names})
    wanted = last_parts if target == "language" else sorted(set(target))
    missing = [part for part in wanted if part not in last_parts]
    if missing or not wanted:
        known = ", ".join(last_parts)
        strange = ", ".join(missing) or "nothing"
        raise SettingsError([f"train.target names {strange}, the language model has {known}"])
    prefix = re.escape(decoder_prefix(model))
    return rf"{prefix}\.(?:.*\.)?(?:{'|'.join(map(re.escape, wanted))})"


def _verify(wrapped: nn.Module, allowed: set[str] | None) -> None:
    adapted = set(adapted_layers(wrapped))
    strange = sorted(adapted - allowed) if allowed is not None else []
    if not adapted or strange:
        raise TrainingError(
            needed="LoRA on the language model's linear layers and nowhere else",
            received=f"{len(adapted)} layers, outside: {', '.join(strange[:3]) or 'none'}",
            remedy="give the layers' names as `target`",
        )


def adapted_layers(wrapped: nn.Module) -> list[str]:
    """Names of the layers that carry LoRA matrices, as the unwrapped model spells them."""
    ending = ".lora_A.default"
    return [
        name.removeprefix("base_model.model.").removesuffix(ending)
        for name, _ in wrapped.named_modules()
        if name.endswith(ending)
    ]


def unfreeze_language(model: nn.Module) -> nn.Module:
    """Let the language model and the output layer learn; vision tower and projector stay.

    Returns:
        The same model.
    """
    learning = {id(weight) for weight in _language_weights(model)}
    for weight in model.parameters():
        weight.requires_grad = id(weight) in learning
    return model


def _language_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    yield from model.get_submodule(decoder_prefix(model)).parameters()
    get_output: Any = getattr(model, "get_output_embeddings", None)
    output = get_output() if get_output is not None else None
    if output is not None:
        yield from output.parameters()


def learns_language_only(model: nn.Module) -> bool:
    """Whether all that learns belongs to the language model, so that images' features stay."""
    language = {id(weight) for weight in _language_weights(model)}
    return all(id(weight) in language for weight in model.parameters() if weight.requires_grad)


def image_token_ids(model: nn.Module) -> frozenset[int]:
    """Ids of the placeholders that features of images take the place of."""
    config: Any = getattr(model, "config", None)
    names = ("image_token_id", "image_token_index")
    found = {getattr(config, name, None) for name in names}
    return frozenset(int(token_id) for token_id in found if token_id is not None)


def trainable_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that learn, by name, sharing the model's memory."""
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def load_trainable(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into those that learn.

    Raises:
        TrainingError: The names or the shapes are not the model's.
    """
    own = trainable_tensors(model)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
        raise TrainingError(
            needed=f"the {len(own)} weights that learn here",
            received=f"{len(tensors)} weights of other names or shapes",
            remedy="start anew with resume=False",
        )
    for name, weight in own.items():
        weight.copy_(tensors[name])


@contextmanager
def swapped_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let a model hold other values in the weights that learn, for the time of a block."""
    before = {name: tensor.clone() for name, tensor in trainable_tensors(model).items()}
    load_trainable(model, tensors)
    try:
        yield
    finally:
        load_trainable(model, before)


def save_weights(
    model: nn.Module, processor: Any, folder: Path, *, method: TuningMethod, step: int
) -> None:
    """Write what was learned: an adapter in PEFT's format, or a whole Hugging Face folder.

    Args:
        model: The trained model, as `add_lora` or `unfreeze_language` returned it.
        processor: Saved beside full weights, so that the folder stands alone.
        folder: Final folder; replaced as a whole.
        method: "lora" or "full".
        step: Optimiser step that the weights come from, for messages.

    Raises:
        NonFiniteLossError: A weight is NaN or infinite; nothing was written.
        RunFolderError: The disk is full or the folder cannot be written.
    """
    refuse_non_finite(trainable_tensors(model), step=step)
    saver: Any = model
    with draft_folder(folder) as draft:
        saver.save_pretrained(draft)
        if method == "full":
            processor.save_pretrained(draft)
