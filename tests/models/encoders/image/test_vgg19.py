"""VGG19: the published architecture, weights by their public names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders.image.vgg19 import Vgg19Encoder, vgg19_layers


def narrow_layers():
    """Build narrow layers; those of the real widths would take half a gigabyte."""
    return torch.nn.ModuleDict(
        {
            "features": torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.MaxPool2d(100)),
            "classifier": torch.nn.Sequential(torch.nn.Linear(8, 5)),
        }
    )


def test_weights_are_read_by_their_public_names(tmp_path, monkeypatch):
    monkeypatch.setattr("mllm_msr.models.encoders.image.vgg19.vgg19_layers", narrow_layers)
    state = dict(narrow_layers().state_dict())
    save_file({**state, "classifier.6.bias": torch.zeros(3)}, tmp_path / "vgg.safetensors")
    encoder = Vgg19Encoder(tmp_path / "vgg.safetensors")
    assert encoder.encode([Image.new("RGB", (30, 50), "red")]).shape == (1, 5)
    del state["features.0.bias"]
    save_file(state, tmp_path / "incomplete.safetensors")
    with pytest.raises(BackendError, match=r"features\.0\.bias"):
        Vgg19Encoder(tmp_path / "incomplete.safetensors").encode([Image.new("RGB", (4, 4))])


def test_the_architecture_is_the_published_one():
    with torch.device("meta"):
        layers = vgg19_layers()
    shapes = {name: tuple(value.shape) for name, value in layers.state_dict().items()}
    assert len(shapes) == 2 * (16 + 2)
    assert shapes["features.34.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.0.weight"] == (4096, 25088)
    assert shapes["classifier.3.weight"] == (4096, 4096)
    # The published 143,667,240 parameters without the last layer's.
    assert sum(map(int, map(np.prod, shapes.values()))) == 143_667_240 - 4096 * 1000 - 1000


def test_a_missing_file_is_reported_immediately(tmp_path):
    with pytest.raises(BackendError, match="the file does not exist"):
        Vgg19Encoder(tmp_path / "absent.safetensors")
