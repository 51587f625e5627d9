"""Tests of the stored inputs of the projector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_msr.errors import BackendError
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.projector import find_projector
from mllm_msr.ranker.alignment.features import project, write_features
from mllm_msr.types import ImagePart, Message, Prompt, TextPart


def load(folder: Path, images: Sequence[Path]) -> tuple[LoadedCheckpoint, Renderer, list[Rendered]]:
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    renderer = Renderer(loaded.processor, supports_images=True)
    parts = [(ImagePart(image), TextPart("Well?")) for image in images]
    return loaded, renderer, [renderer.render(Prompt((Message("user", one),))) for one in parts]


@pytest.mark.parametrize("family", ["llava", "llava_efficientnet"])
def test_logits_from_features_equal_those_from_pixels(
    family: str, tmp_path: Path, images: Sequence[Path], tiny_checkpoint: Callable[[str], Path]
) -> None:
    loaded, renderer, rows = load(tiny_checkpoint(family), images[:3])
    done: list[int] = []
    file = tmp_path / "features.npy"
    features = write_features(loaded.model, renderer, rows, file, advance=done.append)
    assert features.dtype == np.float16
    assert sum(done) == len(features) == 3
    batch = renderer.collate(rows, pad_side="right", with_answers=False)
    lean = {name: tensor for name, tensor in batch.items() if not name.startswith("pixel_")}
    like = loaded.model.get_input_embeddings().weight
    with torch.no_grad():
        expected = loaded.model(**batch).logits
        replaced = project(find_projector(loaded.model), features, like=like)
        found = loaded.model(**lean, **replaced).logits
    assert torch.allclose(found, expected, atol=5e-3)


def test_stored_features_are_not_computed_again(
    tmp_path: Path, images: Sequence[Path], tiny_checkpoint: Callable[[str], Path]
) -> None:
    loaded, renderer, rows = load(tiny_checkpoint("llava_efficientnet"), images[:2])
    done: list[int] = []
    for _ in range(2):
        write_features(loaded.model, renderer, rows, tmp_path / "features.npy", advance=done.append)
    assert sum(done) == 2


def test_models_that_change_projected_features_are_an_error(
    tmp_path: Path, images: Sequence[Path], tiny_checkpoint: Callable[[str], Path]
) -> None:
    loaded, renderer, rows = load(tiny_checkpoint("llava_next"), images[:2])
    with pytest.raises(BackendError, match="which align does not support"):
        write_features(
            loaded.model, renderer, rows, tmp_path / "features.npy", advance=lambda _: None
        )
