"""The pretrained tower equals the reference implementation of the package that defines its file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mllm_msr.models.small.sources import VISION
from mllm_msr.models.small.vision import read_tower

N_IMAGES = 50


def draw(number: int) -> Image.Image:
    """Return an image of shapes, with noise in every second one."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (224, 224), tuple(rng.integers(0, 256, 3)))
    brush = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, width, height = (int(n) for n in rng.integers(0, 160, 4))
        shape = brush.ellipse if rng.random() < 0.5 else brush.rectangle
        shape(
            (x, y, x + width + 1, y + height + 1),
            fill=tuple(int(n) for n in rng.integers(0, 256, 3)),
        )
    if number % 2:
        noise = rng.integers(-40, 41, (224, 224, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return image


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Return generated images, normalized as the tower expects, [images, 3, 224, 224]."""
    images = np.stack([np.asarray(draw(number)) for number in range(N_IMAGES)])
    return (torch.tensor(images).permute(0, 3, 1, 2).float() - 127) / 128


@pytest.fixture(scope="module")
def reference(packages: None) -> Any:
    implementation = pytest.importorskip("efficientnet_lite_pytorch")
    model = implementation.EfficientNet.from_name("efficientnet-lite0")
    assert VISION.path is not None
    model.load_state_dict(torch.load(VISION.path, weights_only=True))
    return model.eval()


@torch.inference_mode()
def test_features_and_classes_equal_the_reference(reference: Any, pixels: torch.Tensor) -> None:
    assert VISION.path is not None
    tower = read_tower(VISION.path, token_grid=4)
    classes = set()
    for batch in pixels.split(10):
        expected = reference.extract_features(batch)  # [batch, 1280, 7, 7]
        torch.testing.assert_close(tower.extract_features(batch), expected, atol=1e-4, rtol=1e-4)
        found = reference._fc(tower(batch).pooler_output)
        torch.testing.assert_close(found, reference(batch), atol=1e-3, rtol=1e-3)
        classes |= set(found.argmax(dim=1).tolist())
    assert len(classes) > 10, "the images do not differ enough to compare towers"


@pytest.mark.usefixtures("packages")
def test_all_features_are_tokens_with_a_grid_of_seven(pixels: torch.Tensor) -> None:
    assert VISION.path is not None
    tower = read_tower(VISION.path, token_grid=7)
    tokens = tower(pixels[:1]).last_hidden_state
    features = tower.extract_features(pixels[:1])
    torch.testing.assert_close(tokens, features.flatten(2).transpose(1, 2))


def test_a_file_with_other_layers_is_rejected(tmp_path: Any) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(KeyError, match="_bn0"):
        read_tower(tmp_path / "other.pth", token_grid=4)
