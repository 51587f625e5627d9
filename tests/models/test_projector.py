"""Tests of replacing the projector of a checkpoint by that of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mllm_msr.errors import BackendError
from mllm_msr.models.loading import inspect_checkpoint, load_model
from mllm_msr.models.projector import find_projector


def write_projector(checkpoint: Path, file: Path) -> dict[str, torch.Tensor]:
    model = load_model(str(checkpoint), dtype="float32", device="cpu").model
    weights = {k: torch.full_like(v, 0.5) for k, v in find_projector(model).state_dict().items()}
    save_file(weights, file)
    return weights


def test_the_model_has_the_weights_of_the_file_and_another_fingerprint(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    checkpoint = tiny_checkpoint("llava_efficientnet")
    weights = write_projector(checkpoint, file := tmp_path / "projector.safetensors")
    base = inspect_checkpoint(str(checkpoint), device="cpu").fingerprint
    loaded = load_model(str(checkpoint), dtype="float32", device="cpu", projector=file)
    found = find_projector(loaded.model).state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert loaded.fingerprint != base
    assert str(tmp_path) not in loaded.fingerprint
    moved = tmp_path / "folder" / file.name
    moved.parent.mkdir()
    file.rename(moved)
    assert (
        inspect_checkpoint(
            str(checkpoint), dtype="float32", device="cpu", projector=moved
        ).fingerprint
        == loaded.fingerprint
    )


def test_a_projector_of_another_model_is_an_error(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    file = tmp_path / "projector.safetensors"
    save_file({"linear_1.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(BackendError, match=r"projector\.safetensors is not a projector of this"):
        load_model(str(tiny_checkpoint("llava_efficientnet")), device="cpu", projector=file)
    with pytest.raises(BackendError, match="There is no file"):
        load_model(
            str(tiny_checkpoint("llava_efficientnet")), device="cpu", projector=tmp_path / "none"
        )


def test_models_without_a_projector_are_an_error(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    model = load_model(str(tiny_checkpoint("qwen2_5_vl")), device="cpu").model
    with pytest.raises(BackendError, match="has no projector of LLaVA's kind"):
        find_projector(model)
